//! What identity providers answer: each verifies what a request claims (signature, key, claims, secret) by what is registered
//! there, in the words that the provider's public documentation has, or that its users have reported.

use mcp_auth_tests::jwt;
use mcp_auth_tests::web::Request;
use serde_json::{Value, json};

use super::registered::Registered;
use super::stand_in::{Answer, SERVER_URL, SERVICE_ACCOUNT, issued, refused};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Seconds that an assertion is good for, by its own words.
fn lifetime(claims: &Value) -> i64 {
    let number = |name: &str| claims[name].as_i64().unwrap_or(i64::MAX / 2);
    number("exp") - number("iat")
}

/// <https://developer.okta.com/docs/api/openapi/okta-oauth/guides/client-auth/>
pub fn okta(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn auth0(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn google(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn cognito(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn salesforce(registered: &Registered, _: &str, request: &Request) -> Answer {
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
pub fn service_now(registered: &Registered, _: &str, request: &Request) -> Answer {
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
pub fn ping_federate(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn ory(registered: &Registered, url: &str, request: &Request) -> Answer {
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
pub fn zitadel(registered: &Registered, url: &str, request: &Request) -> Answer {
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
