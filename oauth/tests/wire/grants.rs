//! The grants, and the tokens that they bring.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::{
    AssertionAudience, AssertionSigner, Assertions, Client, ClientAuthentication, Error, ExchangeProfile,
    Grant, IssuedToken, Limits, Registration, Scope, SigningKey, TokenExchange, TokenRequest, TokenType,
};
use serde_json::json;

use crate::server::{self, Server, json as json_answer};
use crate::{TOKEN, basic, jwt};

fn client(registration: Registration) -> Client {
    server::install_provider();
    Client::new(registration).unwrap()
}

fn answer_of(token_type: &str, issued_token_type: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"access_token":"us3r","token_type":"{token_type}","issued_token_type":"{issued_token_type}"}}"#
    );
    json_answer("200 OK", &body)
}

async fn exchange(answer: Vec<u8>) -> Result<IssuedToken, Error> {
    let server = Server::answering([answer]).await;
    server
        .client(basic(), Limits::default())
        .exchange_token(&"subj3ct".into())
        .await
}

#[tokio::test]
async fn scopes_that_are_demanded_are_added_to_those_of_the_registration() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let client = client(Registration {
        scopes: vec![Scope::new("a".into()), Scope::new("b".into())],
        ..server.registration(basic())
    });
    let ask = TokenRequest {
        scopes: vec![Scope::new("b".into()), Scope::new("c".into())],
        ..TokenRequest::default()
    };
    client.request_token(&ask).await.unwrap();
    client.request_token(&TokenRequest::default()).await.unwrap();
    assert_eq!(server.form().await.1["scope"], "a b c");
    assert_eq!(server.form().await.1["scope"], "a b");
}

#[tokio::test]
async fn an_assertion_can_be_the_grant_with_or_without_client_authentication() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    for (authentication, client_id) in [(basic(), None), (ClientAuthentication::None, Some("client"))] {
        let client = client(Registration {
            grant: Grant::JwtBearer(Assertions::Given("e.y.j".into())),
            resource: Some("https://tools.example.com/mcp".into()),
            ..server.registration(authentication)
        });
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (head, form) = server.form().await;
        assert_eq!(
            server::header(&head, "authorization").is_none(),
            client_id.is_some()
        );
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        assert_eq!(form["assertion"], "e.y.j");
        assert_eq!(form["resource"], "https://tools.example.com/mcp");
        assert_eq!(form.get("client_id").map(String::as_str), client_id);
    }
}

/// As Google's Security Token Service has it.
#[tokio::test]
async fn the_token_of_a_workload_is_exchanged_without_client_authentication_and_never_told() {
    let refused = json_answer(
        "400 Bad Request",
        r#"{"error":"invalid_grant","error_description":"w0rkload is stale"}"#,
    );
    let mut server = Server::answering([json_answer("200 OK", TOKEN), refused]).await;
    let client = client(Registration {
        client_id: None,
        grant: Grant::TokenExchange(Assertions::Given("w0rkload".into())),
        audience: Some(
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k".into(),
        ),
        scopes: vec![Scope::new(
            "https://www.googleapis.com/auth/cloud-platform".into(),
        )],
        ..server.registration(ClientAuthentication::None)
    });
    client.request_token(&TokenRequest::default()).await.unwrap();
    let (head, form) = server.form().await;
    assert!(server::header(&head, "authorization").is_none());
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "w0rkload"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        (
            "audience",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        ),
    ] {
        assert_eq!(form[name], value);
    }
    assert!(!form.contains_key("client_id"));
    let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), "invalid_grant");
    assert!(!error.message().contains("w0rkload"), "{}", error.message());
}

/// As Google, Salesforce and Zitadel have it.
#[tokio::test]
async fn an_assertion_that_is_the_grant_can_be_signed_here_anew_for_each_request() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let signer = AssertionSigner {
        key: SigningKey::parse(&pair.serialize_pem(), None, Some("k-1".into())).unwrap(),
        issuer: "tools@p.iam.gserviceaccount.com".into(),
        subject: "anna@example.com".into(),
        audience: AssertionAudience::default(),
        claims: [("scope".into(), "a b".into())].into(),
    };
    let client = client(Registration {
        client_id: None,
        grant: Grant::JwtBearer(Assertions::Signed(Arc::new(signer))),
        ..server.registration(ClientAuthentication::None)
    });
    let mut ids = Vec::new();
    for _ in 0..2 {
        client.request_token(&TokenRequest::default()).await.unwrap();
        let (_, form) = server.form().await;
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (header, mut claims) = jwt::verify(&form["assertion"], pair.public_key_raw());
        assert_eq!(header["kid"], "k-1");
        ids.push(claims["jti"].take());
        assert_eq!(claims["iss"], "tools@p.iam.gserviceaccount.com");
        assert_eq!(
            (&claims["sub"], &claims["scope"]),
            (&json!("anna@example.com"), &json!("a b"))
        );
        assert_eq!(claims["aud"], server.url());
    }
    assert_ne!(ids[0], ids[1]);
}

/// https://learn.microsoft.com/entra/identity-platform/v2-oauth2-on-behalf-of-flow
#[tokio::test]
async fn a_users_token_is_exchanged_on_behalf_of_the_user_as_entra_has_it() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let client = client(Registration {
        token_exchange: TokenExchange {
            profile: ExchangeProfile::EntraOnBehalfOf,
            ..TokenExchange::default()
        },
        scopes: vec![Scope::new("api://tools/.default".into())],
        ..server.registration(ClientAuthentication::SecretPost("s3cret".into()))
    });
    client.exchange_token(&"subj3ct".into()).await.unwrap();
    let (_, form) = server.form().await;
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        form,
        [
            ("assertion", "subj3ct"),
            ("client_id", "client"),
            ("client_secret", "s3cret"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("requested_token_use", "on_behalf_of"),
            ("scope", "api://tools/.default"),
        ]
    );
}

#[tokio::test]
async fn parameters_whose_values_are_secret_are_sent_and_never_told() {
    let echo = r#"{"error":"invalid_request","error_description":"unknown key p4rtner-s3cret"}"#;
    let mut server = Server::answering([json_answer("400 Bad Request", echo)]).await;
    let registration = Registration {
        secret_parameters: [("partner_key".into(), "p4rtner-s3cret".into())].into(),
        ..server.registration(basic())
    };
    assert!(!format!("{registration:?}").contains("p4rtner"));
    let error = client(registration.clone())
        .request_token(&TokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(server.form().await.1["partner_key"], "p4rtner-s3cret");
    assert!(
        !format!("{error:?} {}", error.message()).contains("p4rtner"),
        "{error:?}"
    );
    let reserved = Registration {
        secret_parameters: [("client_secret".into(), "x".into())].into(),
        ..registration
    };
    assert_eq!(Client::new(reserved).unwrap_err().reason(), "ReservedParameter");
}

#[tokio::test]
async fn a_users_token_is_exchanged_with_the_parameters_of_the_registration() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let client = client(Registration {
        // Those of the service's own grant are none of an exchange's.
        grant: Grant::JwtBearer(Assertions::Given("e.y.j".into())),
        token_exchange: TokenExchange {
            profile: ExchangeProfile::TokenExchange,
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
            requested_token_type: Some("urn:ietf:params:oauth:token-type:access_token".into()),
            ..TokenExchange::default()
        },
        scopes: vec![Scope::new("a".into())],
        audience: Some("urn:tools".into()),
        resource: Some("https://tools.example.com/mcp".into()),
        ..server.registration(basic())
    });
    let issued = client.exchange_token(&"subj3ct".into()).await.unwrap();
    assert_eq!(issued.access_token.secret(), "t0p-s3cret");
    let (head, form) = server.form().await;
    assert!(server::header(&head, "authorization").is_some());
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        form,
        [
            ("audience", "urn:tools"),
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token"
            ),
            ("resource", "https://tools.example.com/mcp"),
            ("scope", "a"),
            ("subject_token", "subj3ct"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ]
    );
}

#[tokio::test]
async fn an_exchange_may_ask_for_other_scopes_and_another_audience_than_the_services_token() {
    let mut server = Server::answering([json_answer("200 OK", TOKEN)]).await;
    let client = client(Registration {
        token_exchange: TokenExchange {
            scopes: Some(vec![Scope::new("of-users".into())]),
            audience: Some("urn:of-users".into()),
            extra_parameters: Some([("tenant".into(), "acme".into())].into()),
            ..TokenExchange::default()
        },
        scopes: vec![Scope::new("of-the-service".into())],
        audience: Some("urn:of-the-service".into()),
        extra_parameters: [("flavour".into(), "own".into())].into(),
        ..server.registration(basic())
    });
    client.exchange_token(&"subj3ct".into()).await.unwrap();
    let (_, exchanged) = server.form().await;
    assert_eq!(
        (&*exchanged["scope"], &*exchanged["audience"]),
        ("of-users", "urn:of-users")
    );
    assert_eq!(
        (
            exchanged.get("tenant").map(String::as_str),
            exchanged.get("flavour")
        ),
        (Some("acme"), None)
    );

    client.request_token(&TokenRequest::default()).await.unwrap();
    let (_, of_the_service) = server.form().await;
    assert_eq!(
        (&*of_the_service["scope"], &*of_the_service["audience"]),
        ("of-the-service", "urn:of-the-service")
    );
    assert!(!of_the_service.contains_key("tenant"));

    let reserved = TokenExchange {
        extra_parameters: Some([("subject_token".into(), "x".into())].into()),
        ..TokenExchange::default()
    };
    let registration = Registration {
        token_exchange: reserved,
        ..server.registration(basic())
    };
    assert_eq!(
        Client::new(registration).unwrap_err().reason(),
        "ReservedParameter"
    );
}

#[tokio::test]
async fn what_is_exchanged_for_counts_where_a_request_can_carry_it() {
    for (token_type, issued_token_type) in [
        ("Bearer", "urn:ietf:params:oauth:token-type:access_token"),
        ("Bearer", "urn:example:own"),
        ("N_A", "urn:ietf:params:oauth:token-type:jwt"),
        ("n_a", "urn:ietf:params:oauth:token-type:id_token"),
    ] {
        let issued = exchange(answer_of(token_type, issued_token_type)).await.unwrap();
        assert_eq!(issued.access_token.secret(), "us3r");
        assert_eq!(issued.token_type, TokenType::Bearer);
    }
    for (token_type, issued_token_type) in [
        ("N_A", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("N_A", "urn:ietf:params:oauth:token-type:saml2"),
        ("Bearer", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("N_A", "urn:example:own"),
        ("N_A", ""),
    ] {
        let error = exchange(answer_of(token_type, issued_token_type))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "UnsupportedTokenType", "{issued_token_type}");
    }
}

#[tokio::test]
async fn a_token_of_no_type_is_none_where_nothing_was_exchanged() {
    let answer = answer_of("N_A", "urn:ietf:params:oauth:token-type:jwt");
    let server = Server::answering([answer]).await;
    let client = server.client(basic(), Limits::default());
    let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
    assert_eq!(error.reason(), "UnsupportedTokenType");
}

#[tokio::test]
async fn a_refused_subject_is_told_with_what_to_check() {
    let body = r#"{"error":"invalid_grant","error_description":"expired subject"}"#;
    let error = exchange(json_answer("400 Bad Request", body)).await.unwrap_err();
    assert_eq!(error.code(), "invalid_grant");
    assert!(error.message().contains("subject token"), "{}", error.message());
}

#[tokio::test]
async fn an_exchange_meets_the_deadline_too() {
    let server = Server::start(server::Step::SendAndHang(Vec::new())).await;
    let deadline = Duration::from_millis(300);
    let limits = Limits {
        deadline,
        ..Limits::default()
    };
    let error = server
        .client(basic(), limits)
        .exchange_token(&"subj3ct".into())
        .await
        .unwrap_err();
    assert_eq!(error, Error::Timeout { limit: deadline });
}
