//! Stand-ins of identity providers: each verifies what a request claims (signature, key, claims, secret) by what is registered
//! there, and answers in the words that the provider's public documentation has, or that its users have reported.

use mcp_auth_crds::reasons;
use mcp_auth_tests::jwt;
use mcp_auth_tests::web::Request;
use serde_json::{Value, json};

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

/// Seconds that an assertion is good for, by its own words.
fn lifetime(claims: &Value) -> i64 {
    let number = |name: &str| claims[name].as_i64().unwrap_or(i64::MAX / 2);
    number("exp") - number("iat")
}

/// <https://developer.okta.com/docs/api/openapi/okta-oauth/guides/client-auth/>
fn okta(registered: &Registered, url: &str, request: &Request) -> Answer {
    let invalid = |words: &str| refused("401 Unauthorized", "invalid_client", words);
    let Some(assertion) = registered.signed(request.parameter("client_assertion")) else {
        return invalid("The client_assertion signature is invalid.");
    };
    if !registered.is_client(&assertion["iss"]) || assertion["sub"] != assertion["iss"] {
        return invalid("'iss' and 'sub' of client_assertion must be the client_id.");
    }
    if assertion["aud"] != format!("{url}/oauth2/default/v1/token") {
        return invalid(
            "The audience claim for client_assertion must be the endpoint invoked for the request.",
        );
    }
    if lifetime(&assertion) > 3600 || !assertion["jti"].is_string() {
        return invalid("The client_assertion token has an expiration too far into the future.");
    }
    if request.parameter("scope") != "tools.call" {
        let words = "One or more scopes are not configured for the authorization server resource.";
        return refused("400 Bad Request", "invalid_scope", words);
    }
    issued(
        json!({"iss": format!("{url}/oauth2/default"), "aud": "api://default", "scp": ["tools.call"]}),
        Some(3600),
    )
}

/// <https://auth0.com/docs/api/authentication/client-credential-flow/get-token>
fn auth0(registered: &Registered, url: &str, request: &Request) -> Answer {
    if !registered.has_secret(request) {
        return refused("401 Unauthorized", "access_denied", "Unauthorized");
    }
    match request.parameter("audience") {
        "" => refused(
            "403 Forbidden",
            "access_denied",
            "No audience parameter was provided, and no default audience has been configured",
        ),
        SERVER_URL => issued(
            json!({"iss": format!("{url}/"), "aud": SERVER_URL, "gty": "client-credentials"}),
            Some(86_400),
        ),
        other => refused(
            "403 Forbidden",
            "access_denied",
            &format!("Service not found: {other}"),
        ),
    }
}

/// <https://developers.google.com/identity/protocols/oauth2/service-account>
fn google(registered: &Registered, url: &str, request: &Request) -> Answer {
    let bad = |code: &str, words: &str| refused("400 Bad Request", code, words);
    if request.form.contains_key("resource") {
        return bad("invalid_request", "Parameter not allowed: resource");
    }
    if request.parameter("grant_type") != JWT_BEARER {
        return bad("unsupported_grant_type", "Invalid grant_type");
    }
    let assertion = request.parameter("assertion");
    if jwt::claims(assertion)["iss"] != SERVICE_ACCOUNT {
        return bad("invalid_grant", "Invalid grant: account not found");
    }
    let Some(claims) = registered
        .signed(assertion)
        .filter(|_| jwt::header(assertion)["alg"] == "RS256")
    else {
        return bad("invalid_grant", "Invalid JWT Signature.");
    };
    if claims["aud"] != format!("{url}/token") {
        let words = format!("Invalid JWT: Failed audience check. The right audience is {url}/token");
        return bad("invalid_grant", &words);
    }
    if lifetime(&claims) > 3600 {
        let words = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check \
                     your iat and exp values in the JWT claim.";
        return bad("invalid_grant", words);
    }
    let scopes = claims["scope"].as_str().unwrap_or_default();
    let mut scopes = scopes.split(' ');
    if !scopes.all(|scope| scope.starts_with("https://www.googleapis.com/auth/")) {
        return bad(
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        );
    }
    if claims
        .get("sub")
        .is_some_and(|subject| subject != SERVICE_ACCOUNT)
    {
        let words = "Client is unauthorized to retrieve access tokens using this method, or client not authorized for \
                     any of the scopes requested.";
        return refused("401 Unauthorized", "unauthorized_client", words);
    }
    let token = json!({"access_token": "ya29.c.b0AXv0zTO", "expires_in": 3599, "token_type": "Bearer"});
    ("200 OK", token)
}

/// <https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html>
fn cognito(registered: &Registered, url: &str, request: &Request) -> Answer {
    let bad = |code: &str| ("400 Bad Request", json!({"error": code}));
    if request.form.contains_key("resource") {
        return bad("invalid_request");
    }
    if !registered.has_secret(request) {
        return bad("invalid_client");
    }
    if request.parameter("scope") != "tools/call" {
        return bad("invalid_scope");
    }
    let claims = json!({
        "iss": format!("{url}/eu-central-1_abc"), "client_id": registered.client_id, "token_use": "access",
        "scope": "tools/call",
    });
    issued(claims, Some(3600))
}

/// <https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_jwt_flow.htm>
fn salesforce(registered: &Registered, _: &str, request: &Request) -> Answer {
    let bad = |code: &str, words: &str| refused("400 Bad Request", code, words);
    let assertion = request.parameter("assertion");
    if request.parameter("grant_type") != JWT_BEARER || assertion.is_empty() {
        return bad("unsupported_grant_type", "grant type not supported");
    }
    let claims = jwt::claims(assertion);
    if claims["iss"] != "3MVG9abc" {
        return bad("invalid_client_id", "client identifier invalid");
    }
    if registered.signed(assertion).is_none() || jwt::header(assertion)["alg"] != "RS256" {
        return bad("invalid_grant", "invalid assertion");
    }
    if claims["aud"] != "https://login.salesforce.com" {
        return bad("invalid_grant", "audience is invalid");
    }
    // At most five minutes ahead.
    if claims["exp"].as_i64().is_none_or(|end| end > jwt::now() + 300) {
        return bad("invalid_grant", "invalid assertion");
    }
    if claims["sub"] != "integration@company.com" {
        return bad("invalid_grant", "user hasn't approved this consumer");
    }
    let token = json!({
        "access_token": "00D5g0000000000!AQcAQH0dMHEXAMPLE", "scope": "api", "token_type": "Bearer",
        "instance_url": "https://company.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D5g0000000000EAA/0055g000000000AAA",
    });
    ("200 OK", token)
}

/// <https://www.servicenow.com/docs/>: *Create a JWT API endpoint for external clients*. It says one thing of all that it refuses.
fn service_now(registered: &Registered, _: &str, request: &Request) -> Answer {
    let claims = registered.signed(request.parameter("assertion"));
    let is_right = claims.is_some_and(|claims| {
        let is_of_client = registered.is_client(&claims["iss"]) && claims["aud"] == registered.client_id;
        is_of_client && claims["sub"] == "integration@company.com"
    });
    if !is_right || !registered.has_secret(request) {
        return refused("401 Unauthorized", "server_error", "access_denied");
    }
    let token = json!({
        "access_token": "LD3xzvXAMPLE", "scope": "useraccount", "token_type": "Bearer", "expires_in": 1799,
    });
    ("200 OK", token)
}

/// <https://docs.pingidentity.com/pingfederate/latest/developers_reference_guide/pf_grant_type_param.html>: `aud` chooses the access
/// token manager, and that sets the audience.
fn ping_federate(registered: &Registered, url: &str, request: &Request) -> Answer {
    if !registered.has_secret(request) {
        let words = "Invalid client or client credentials.";
        return refused("401 Unauthorized", "invalid_client", words);
    }
    if request.form.contains_key("resource") {
        return refused(
            "400 Bad Request",
            "invalid_target",
            "The requested resource is invalid, unknown, or malformed.",
        );
    }
    let audience = match request.parameter("aud") {
        SERVER_URL => SERVER_URL,
        "" | "https://default-manager.company.com" => "https://default-manager.company.com",
        _ => {
            let words = "No access token manager matches the aud parameter.";
            return refused("400 Bad Request", "invalid_request", words);
        }
    };
    let claims = json!({"iss": url, "client_id": registered.client_id, "aud": audience});
    issued(claims, Some(7199))
}

/// <https://www.ory.com/docs/hydra/reference/api>, and the words of its library fosite.
fn ory(registered: &Registered, url: &str, request: &Request) -> Answer {
    let invalid = |words: &str| {
        let words = format!(
            "Client authentication failed (e.g., unknown client, no client authentication included, or unsupported \
             authentication method). {words}"
        );
        refused("401 Unauthorized", "invalid_client", &words)
    };
    let Some(claims) = registered.signed(request.parameter("client_assertion")) else {
        return invalid("Unable to verify the integrity of the 'client_assertion' value.");
    };
    if !registered.is_client(&claims["iss"]) || claims["sub"] != claims["iss"] {
        let words = "Claim 'iss' from 'client_assertion' must match the 'client_id' of the OAuth 2.0 Client.";
        return invalid(words);
    }
    if !claims["jti"].is_string() {
        return invalid("Claim 'jti' from 'client_assertion' must be set but is not.");
    }
    if claims["aud"] != format!("{url}/oauth2/token") {
        let words =
            "Claim 'audience' from 'client_assertion' must match the authorization server's token endpoint";
        return invalid(words);
    }
    let audience = request.parameter("audience");
    if !audience.is_empty() && audience != SERVER_URL {
        let words =
            format!("Requested audience '{audience}' has not been whitelisted by the OAuth 2.0 Client.");
        return refused("400 Bad Request", "invalid_request", &words);
    }
    let audience: Vec<_> = Some(audience)
        .filter(|audience| !audience.is_empty())
        .into_iter()
        .collect();
    issued(json!({"iss": url, "aud": audience}), Some(3599))
}

/// <https://zitadel.com/docs/guides/integrate/service-users/private-key-jwt>
fn zitadel(registered: &Registered, url: &str, request: &Request) -> Answer {
    let Some(claims) = registered.signed(request.parameter("assertion")) else {
        return refused("400 Bad Request", "server_error", "Errors.AuthNKey.NotFound");
    };
    if claims["iss"] != "u" || claims["sub"] != "u" {
        return refused(
            "400 Bad Request",
            "invalid_request",
            "issuer and subject must be the service user",
        );
    }
    if claims["aud"] != url {
        let words = "audience is not valid: Audience must contain client_id";
        return refused("400 Bad Request", "invalid_request", words);
    }
    let scopes = request.parameter("scope").split(' ');
    let projects = scopes.filter_map(|scope| {
        let of_project = scope.strip_prefix("urn:zitadel:iam:org:project:id:")?;
        of_project.strip_suffix(":aud")
    });
    let projects: Vec<_> = projects.collect();
    issued(json!({"iss": url, "aud": projects}), Some(43_199))
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
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
