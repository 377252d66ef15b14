use mcp_auth_oauth::{ACCESS_TOKEN_TYPE, ExchangeProfile, ID_TOKEN_TYPE};

use super::*;

fn exchanging(exchange: Value) -> Registration {
    let mut oauth2 = basic();
    oauth2["scopes"] = json!(["of-the-service"]);
    oauth2["tokenExchange"] = exchange;
    registration(&spec(oauth2))
}

#[test]
fn the_subject_is_an_access_token_and_with_a_grant_of_the_identity_provider_an_id_token() {
    let plain = exchanging(json!({"subjectCookie": "sid"})).token_exchange;
    assert_eq!(plain.subject_token_type, ACCESS_TOKEN_TYPE);
    assert!(plain.scopes.is_none() && plain.identity_provider.is_none());
    let granted = exchanging(json!({
        "profile": "IdJag",
        "subjectHeader": "Authorization",
        "audience": "https://auth.example.com",
        "scopes": ["of-users"],
        "identityProvider": {"issuer": "https://idp.example.com"},
    }));
    let exchange = granted.token_exchange;
    assert_eq!(exchange.profile, ExchangeProfile::IdJag);
    assert_eq!(exchange.subject_token_type, ID_TOKEN_TYPE);
    assert_eq!(exchange.scopes.unwrap()[0].as_str(), "of-users");
    assert_eq!(granted.scopes[0].as_str(), "of-the-service");
}

#[test]
fn the_identity_provider_knows_the_client_as_the_authorization_server_does_unless_it_is_stated() {
    let provider = |provider: Value| {
        let exchange = exchanging(json!({
            "profile": "IdJag",
            "subjectCookie": "sid",
            "audience": "https://auth.example.com",
            "identityProvider": provider,
        }));
        *exchange.token_exchange.identity_provider.unwrap()
    };
    let same = provider(json!({"issuer": "https://idp.example.com"}));
    assert!(matches!(&same.server, ServerLocation::Issuer(issuer) if issuer == "https://idp.example.com"));
    assert_eq!(same.client_id.unwrap().as_str(), "litellm");
    assert!(matches!(
        same.authentication,
        ClientAuthentication::SecretBasic(_)
    ));
    let other = provider(json!({
        "tokenUrl": "https://idp.example.com/token",
        "clientId": "there",
        "clientAuthentication": {
            "method": "ClientSecretPost",
            "clientSecretRef": {"name": "idp", "key": "secret"},
        },
    }));
    assert!(
        matches!(&other.server, ServerLocation::Endpoints { token_url, .. } if token_url.ends_with("/token"))
    );
    assert_eq!(other.client_id.unwrap().as_str(), "there");
    assert!(matches!(
        other.authentication,
        ClientAuthentication::SecretPost(_)
    ));
}
