//! Set-ups that do not work at each provider, by answers in the shapes that it documents or that public reports show, and what
//! is said of each. The texts stand in `docs/broken-set-ups.md` too, and are compared with it.

mod refusals;

use std::sync::Arc;

use mcp_auth_oauth::{
    AssertionAudience, AssertionSigner, Assertions, Client, ClientAuthentication, ClientSecret,
    ClientSecrets, Error, Grant, Registration, SigningKey, TokenRequest,
};
use serde_json::json;

use crate::server::{self, Server, json};
use refusals::{REFUSALS, Refusal};

const PAGE: &str = include_str!("../../../docs/broken-set-ups.md");

/// What was requested of a provider that refuses it so.
fn requested(provider: &str, wrong: &str) -> fn(Registration) -> Registration {
    match (provider, wrong) {
        ("Google" | "Zitadel", _) => signed,
        ("Google, workload identity", _) => of_workload,
        _ => |registration| registration,
    }
}

async fn refused(
    registration: impl FnOnce(Registration) -> Registration,
    refusal: &Refusal,
) -> (Error, usize) {
    let (provider, wrong, status, code, words) = refusal;
    let mut body = json!({"error": code});
    if !words.is_empty() {
        body["error_description"] = json!(words);
    }
    let server = Server::answering([json(&format!("{status} Status"), &body.to_string())]).await;
    server::install_provider();
    let secret = ClientAuthentication::SecretPost("s3cret-of-a-stranger".into());
    let registration = registration(server.registration(secret));
    let client = Client::new(registration).unwrap();
    let issued = match (*provider, *wrong) {
        ("Keycloak", "the user's token does not name the client") => {
            client.exchange_token(&"of-the-us3r".into()).await
        }
        _ => client.request_token(&TokenRequest::default()).await,
    };
    (issued.unwrap_err(), server.connections())
}

/// A ServiceAccount token is exchanged for the service's.
fn of_workload(registration: Registration) -> Registration {
    Registration {
        client_id: None,
        authentication: ClientAuthentication::None,
        grant: Grant::TokenExchange(Assertions::Given("w0rkload".into())),
        ..registration
    }
}

/// An assertion that was made elsewhere, as in `jwtBearer.assertionRef`.
fn given(registration: Registration) -> Registration {
    Registration {
        grant: Grant::JwtBearer(Assertions::Given("e.y.j".into())),
        ..registration
    }
}

/// A key of the client's own says who it is.
fn by_key(registration: Registration) -> Registration {
    let pair = rcgen::KeyPair::generate().unwrap();
    Registration {
        authentication: ClientAuthentication::PrivateKeyJwt {
            key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
            audience: AssertionAudience::default(),
        },
        ..registration
    }
}

fn signed(registration: Registration) -> Registration {
    let pair = rcgen::KeyPair::generate().unwrap();
    let signer = AssertionSigner {
        key: SigningKey::parse(&pair.serialize_pem(), None, None).unwrap(),
        issuer: "tools@p.iam.gserviceaccount.com".into(),
        subject: "anna@company.com".into(),
        audience: AssertionAudience::default(),
        claims: [].into(),
    };
    Registration {
        client_id: None,
        authentication: ClientAuthentication::None,
        grant: Grant::JwtBearer(Assertions::Signed(Arc::new(signer))),
        ..registration
    }
}

#[tokio::test]
async fn what_a_stranger_sets_up_wrong_at_each_provider_is_told_with_its_way_out() {
    let mut page = String::new();
    for refusal in REFUSALS {
        let (provider, wrong, status, code, words) = refusal;
        let (error, _) = refused(requested(provider, wrong), refusal).await;
        assert!(
            error.is_permanent(),
            "{provider}, {wrong}: it is no fault that passes"
        );
        let message = error.message();
        let answer = match words.is_empty() {
            true => (*code).to_owned(),
            false => format!("{code} ({})", words.replace('"', "'")),
        };
        let told = format!("the authorization server answered {answer}: ");
        let hint = message.strip_prefix(&told);
        let hint = hint.unwrap_or_else(|| panic!("{message} is not of {answer}"));
        let shown = match words.char_indices().nth(90) {
            Some((cut, _)) => format!("{}...", &words[..cut].trim_end()),
            None => (*words).to_owned(),
        };
        let shown = format!("{status} `{code}` {shown}");
        page += &format!("| {provider} | {wrong} | {} | {hint} |\n", shown.trim_end());
    }
    assert!(
        PAGE.contains(&page),
        "docs/broken-set-ups.md has other texts than these:\n{page}"
    );
}

/// An alternate secret would be refused for the same reason, and a log full of wrong secrets does not name the setting.
#[tokio::test]
async fn the_alternate_secret_is_tried_where_the_client_is_not_believed_in_whatever_words_and_nowhere_else() {
    let with_two = |registration: Registration| Registration {
        authentication: ClientAuthentication::SecretPost(ClientSecrets {
            first: ClientSecret::new("first-s3cret".into()),
            alternate: Some(ClientSecret::new("second-s3cret".into())),
        }),
        ..registration
    };
    for (provider, wrong, is_of_client) in [
        ("Auth0", "the secret is wrong", true),
        (
            "ServiceNow",
            "the property for client credentials is not set, or the secret is wrong",
            true,
        ),
        ("Keycloak", "the secret is wrong", true),
        ("Entra", "the secret has ended", true),
        ("Cognito", "the client has no secret, or another one", true),
        ("Keycloak", "*Service accounts roles* is off", false),
        ("Okta", "an app of the type *Web*", false),
        ("Auth0", "no `audience`", false),
    ] {
        let refusal = REFUSALS
            .iter()
            .find(|refusal| (refusal.0, refusal.1) == (provider, wrong));
        let (error, requests) = refused(with_two, refusal.unwrap()).await;
        assert_eq!(requests, if is_of_client { 2 } else { 1 }, "{provider}, {wrong}");
        assert_eq!(
            matches!(error, Error::BothSecretsRefused(_)),
            is_of_client,
            "{provider}, {wrong}"
        );
    }
}

/// Words are other servers' too, and what a hint names the resource may not have.
#[tokio::test]
async fn a_provider_s_hint_is_given_for_what_it_is_about_only() {
    let hint = async |registration: fn(Registration) -> Registration, status, code, words| {
        let (error, _) = refused(registration, &("", "", status, code, words)).await;
        error.message()
    };
    let of_secret = "check the assertion in jwtBearer.assertionRef (its issuer, audience and expiry)";
    for words in [
        "Invalid JWT Signature.",
        "audience is invalid",
        "Invalid grant: account not found",
    ] {
        let told = hint(given, 400, "invalid_grant", words).await;
        assert!(told.contains(of_secret), "{told}");
        let told = hint(signed, 400, "invalid_grant", words).await;
        assert!(
            told.contains("jwtBearer") || told.contains("client_email"),
            "{told}"
        );
    }
    let mismatch = "The audience does not match the expected audience.";
    let told = hint(by_key, 401, "invalid_client", mismatch).await;
    assert!(
        told.contains("clientAuthentication.privateKeyJwt.audience"),
        "{told}"
    );
    let told = hint(of_workload, 400, "invalid_grant", mismatch).await;
    assert!(told.contains("workloadIdentity.audience"), "{told}");
    for (status, code, words) in [
        (400, "invalid_request", "Service not found: tools"),
        (400, "invalid_client", "client identifier invalid"),
        (400, "invalid_grant", "user is inactive"),
        (400, "invalid_grant", "account not found"),
        (400, "invalid_grant", "the audience is invalid"),
        (400, "invalid_scope", "You have not been granted scopes"),
        (400, "invalid_scope", "it is not allowed to request scope"),
    ] {
        let told = hint(|registration| registration, status, code, words).await;
        for name in [
            "Salesforce",
            "Applications",
            "Ory",
            "key file",
            "jwtBearer",
            "Run As",
        ] {
            assert!(!told.contains(name), "{words}: {told}");
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_refused_in_words_of_others_is_followed_by_the_alternate_one() {
    let with_two = |registration: Registration| Registration {
        authentication: ClientAuthentication::SecretPost(ClientSecrets {
            first: ClientSecret::new("first-s3cret".into()),
            alternate: Some(ClientSecret::new("second-s3cret".into())),
        }),
        ..registration
    };
    for words in [
        "This secret is not allowed for the client",
        "No secret: the server supports client authentication method private_key_jwt",
    ] {
        let (error, requests) = refused(with_two, &("", "", 401, "invalid_client", words)).await;
        assert!(matches!(error, Error::BothSecretsRefused(_)), "{words}");
        assert_eq!(requests, 2, "{words}");
    }
}
