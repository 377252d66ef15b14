//! Stand-ins of identity providers: how each is set up by its page, and what may be wrong with that. What they answer is in
//! `answers.rs`.

use mcp_auth_crds::reasons;
use mcp_auth_tests::jwt;
use mcp_auth_tests::web::Request;
use serde_json::{Value, json};

use super::answers::{auth0, cognito, google, okta, ory, ping_federate, salesforce, service_now, zitadel};
use super::entra;
use super::registered::Registered;

pub type Answer = (&'static str, Value);

/// A provider, and what its page's resource meets there.
pub struct Provider {
    pub name: &'static str,
    /// Path of the issuer; none: only the token endpoint is stated.
    pub issuer: Option<&'static str>,
    pub token_path: &'static str,
    /// From what is registered, the URL of the stand-in, and a request to the answer.
    pub answer: fn(&Registered, &str, &Request) -> Answer,
    /// Field of the page's resource that has this value by `provider` anyway.
    pub by_default: Option<&'static str>,
    /// Reason and words of the condition without `provider`, and without that field.
    pub forgotten: (&'static str, &'static str),
    /// What else may be wrong, each with the code and with words of the condition. One that a Secret alone mends is the last, since
    /// the token is there then.
    pub mistakes: Vec<Mistake>,
}

/// A wrong set-up.
pub struct Mistake {
    pub kind: MistakeKind,
    pub code: &'static str,
    pub words: &'static str,
}

pub enum MistakeKind {
    /// Fields of `spec.oauth2` that are stated otherwise.
    Fields(Value),
    /// The Secret has the key of another client, or the secret of another.
    AnotherCredential,
}

fn fields(fields: Value, code: &'static str, words: &'static str) -> Mistake {
    Mistake {
        kind: MistakeKind::Fields(fields),
        code,
        words,
    }
}

fn another_credential(code: &'static str, words: &'static str) -> Mistake {
    Mistake {
        kind: MistakeKind::AnotherCredential,
        code,
        words,
    }
}

pub fn issued(claims: Value, expires_in: Option<u32>) -> Answer {
    let mut body = json!({"access_token": jwt::unsigned(&claims), "token_type": "Bearer"});
    if let Some(expires_in) = expires_in {
        body["expires_in"] = json!(expires_in);
    }
    ("200 OK", body)
}

pub fn refused(status: &'static str, code: &str, description: &str) -> Answer {
    (status, json!({"error": code, "error_description": description}))
}

/// Of the MCP server on the pages.
pub const SERVER_URL: &str = "https://tools.company.com/mcp";
/// Whose key file the page of Google Cloud has.
pub const SERVICE_ACCOUNT: &str = "tools@p.iam.gserviceaccount.com";

pub fn providers() -> Vec<Provider> {
    vec![
        Provider {
            name: "Entra",
            issuer: Some(entra::ISSUER_PATH),
            token_path: entra::TOKEN_PATH,
            answer: entra::answer,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "AADSTS901002"),
            mistakes: vec![
                fields(
                    json!({"clientId": "33333333-3333-3333-3333-333333333333"}),
                    "unauthorized_client",
                    "AADSTS700016",
                ),
                fields(
                    json!({"clientAuthentication": {"privateKeyJwt": {"audience": "https://elsewhere.example.com"}}}),
                    "invalid_client",
                    "AADSTS700023",
                ),
                fields(
                    json!({"scopes": ["tools.call"]}),
                    "invalid_scope",
                    "AADSTS1002012",
                ),
                another_credential("invalid_client", "AADSTS700027"),
            ],
        },
        Provider {
            name: "Okta",
            issuer: Some("/oauth2/default"),
            token_path: "/oauth2/default/v1/token",
            answer: okta,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "privateKeyJwt.audience"),
            mistakes: vec![
                fields(
                    json!({"clientId": "another"}),
                    "invalid_client",
                    "must be the client_id",
                ),
                fields(
                    json!({"scopes": ["tools.write"]}),
                    "invalid_scope",
                    "has scopes of its own",
                ),
                another_credential("invalid_client", "signature is invalid"),
            ],
        },
        Provider {
            name: "Auth0",
            issuer: Some("/"),
            token_path: "/oauth/token",
            answer: auth0,
            by_default: Some("audience"),
            forgotten: (reasons::REQUEST_FAILED, "No audience parameter was provided"),
            mistakes: vec![
                fields(
                    json!({"audience": "https://another-api.company.com"}),
                    "access_denied",
                    "audience is no API of this tenant",
                ),
                another_credential("access_denied", "the client secret"),
            ],
        },
        Provider {
            name: "Google",
            issuer: None,
            token_path: "/token",
            answer: google,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "Parameter not allowed: resource"),
            mistakes: vec![
                fields(
                    json!({"scopes": ["cloud-platform"]}),
                    "invalid_scope",
                    "the whole addresses",
                ),
                fields(
                    json!({"jwtBearer": {"subject": "anna@company.com"}}),
                    "unauthorized_client",
                    "domain-wide delegation",
                ),
                fields(
                    json!({"jwtBearer": {"issuer": "gone@p.iam.gserviceaccount.com"}}),
                    "invalid_grant",
                    "account not found",
                ),
                fields(
                    json!({"jwtBearer": {"audience": "https://elsewhere.example.com"}}),
                    "invalid_grant",
                    "audience",
                ),
                another_credential("invalid_grant", "none of that service account"),
            ],
        },
        Provider {
            name: "Cognito",
            issuer: Some("/eu-central-1_abc"),
            token_path: "/oauth2/token",
            answer: cognito,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "invalid_request"),
            mistakes: vec![
                fields(
                    json!({"scopes": ["tools/write"]}),
                    "invalid_scope",
                    "invalid_scope",
                ),
                another_credential("invalid_client", "invalid_client"),
            ],
        },
        Provider {
            name: "Salesforce",
            issuer: None,
            token_path: "/services/oauth2/token",
            answer: salesforce,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "audience is invalid"),
            mistakes: vec![
                fields(
                    json!({"jwtBearer": {"issuer": "3MVG9of-a-sandbox"}}),
                    "invalid_client_id",
                    "the Consumer Key",
                ),
                fields(
                    json!({"jwtBearer": {"subject": "anna@company.com"}}),
                    "invalid_grant",
                    "pre-authorize the user",
                ),
                another_credential("invalid_grant", "invalid assertion"),
            ],
        },
        Provider {
            name: "ServiceNow",
            issuer: None,
            token_path: "/oauth_token.do",
            answer: service_now,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "server_error (access_denied)"),
            mistakes: vec![
                fields(
                    json!({"jwtBearer": {"subject": "anna@company.com"}}),
                    "server_error",
                    "ServiceNow says this of all",
                ),
                another_credential("server_error", "ServiceNow says this of all"),
            ],
        },
        Provider {
            name: "PingFederate",
            issuer: Some(""),
            token_path: "/as/token.oauth2",
            answer: ping_federate,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "an empty resource sends none"),
            mistakes: vec![
                fields(
                    json!({"extraParameters": {"aud": "https://another.company.com"}}),
                    "invalid_request",
                    "access token manager",
                ),
                fields(
                    json!({"extraParameters": {"aud": "https://default-manager.company.com"}}),
                    reasons::TOKEN_MISMATCH,
                    "https://default-manager.company.com",
                ),
                another_credential("invalid_client", "Invalid client or client credentials"),
            ],
        },
        Provider {
            name: "Ory",
            issuer: Some(""),
            token_path: "/oauth2/token",
            answer: ory,
            by_default: None,
            forgotten: (reasons::REQUEST_FAILED, "token endpoint"),
            mistakes: vec![
                fields(
                    json!({"clientId": "another"}),
                    "invalid_client",
                    "must match the 'client_id'",
                ),
                fields(
                    json!({"audience": "https://another.company.com"}),
                    "invalid_request",
                    "add that audience to the client's audience",
                ),
                another_credential("invalid_client", "Unable to verify the integrity"),
            ],
        },
        Provider {
            name: "Zitadel",
            issuer: Some(""),
            token_path: "/oauth/v2/token",
            answer: zitadel,
            by_default: None,
            forgotten: (reasons::TOKEN_MISMATCH, "123456789"),
            mistakes: vec![
                fields(
                    json!({"jwtBearer": {"subject": "another-user"}}),
                    "invalid_request",
                    "must be the service user",
                ),
                another_credential("server_error", "Zitadel knows no such key"),
            ],
        },
    ]
}
