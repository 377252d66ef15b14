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

/// Those whose grant is an assertion that is signed here.
fn by_assertion(provider: &str) -> bool {
    ["Google", "Zitadel"].contains(&provider)
}

async fn refused(
    registration: impl FnOnce(Registration) -> Registration,
    refusal: &Refusal,
) -> (Error, usize) {
    let (_, _, status, code, words) = refusal;
    let mut body = json!({"error": code});
    if !words.is_empty() {
        body["error_description"] = json!(words);
    }
    let server = Server::answering([json(&format!("{status} Status"), &body.to_string())]).await;
    server::install_provider();
    let secret = ClientAuthentication::SecretPost("s3cret-of-a-stranger".into());
    let registration = registration(server.registration(secret));
    let client = Client::new(registration).unwrap();
    let error = client.request_token(&TokenRequest::default()).await.unwrap_err();
    (error, server.connections())
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
        let (error, _) = match by_assertion(provider) {
            true => refused(signed, refusal).await,
            false => refused(|registration| registration, refusal).await,
        };
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

/// An alternate secret would be refused for the same reason, and a log full of wrong secrets leads nobody to a setting.
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
