//! Stand-ins of identity providers, which answer as each provider's public documentation has it, and what a resource has of
//! each besides its name.

use mcp_auth_crds::reasons;
use mcp_auth_tests::jwt;
use mcp_auth_tests::resource::merge;
use mcp_auth_tests::web::Form;
use serde_json::{Value, json};

pub const TENANT: &str = "00000000-0000-0000-0000-000000000000";
pub const APPLICATION: &str = "22222222-2222-2222-2222-222222222222";

type Answer = (&'static str, Value);

/// A provider, and what a resource has of it besides its name.
pub struct Provider {
    pub name: &'static str,
    /// Path of the issuer; none: only the token endpoint is stated.
    pub issuer: Option<&'static str>,
    pub token_path: &'static str,
    /// Fields that this provider's users have to state.
    pub oauth2: Value,
    /// From URL of the stand-in and form to the answer.
    pub answer: fn(&str, &Form) -> Answer,
    /// Reason and words of the condition without `provider`.
    pub forgotten: (&'static str, &'static str),
}

fn issued(claims: Value, expires_in: Option<u32>) -> Answer {
    let mut body = json!({"access_token": jwt::unsigned(&claims), "token_type": "Bearer"});
    if let Some(expires_in) = expires_in {
        body["expires_in"] = json!(expires_in);
    }
    ("200 OK", body)
}

fn refused(status: &'static str, code: &str, description: &str) -> Answer {
    (status, json!({"error": code, "error_description": description}))
}

fn by_secret() -> Value {
    json!({
        "method": "ClientSecretPost",
        "clientSecretRef": {"name": "client", "key": "client-secret"},
    })
}

fn by_key() -> Value {
    json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"keyRef": {"name": "client-key", "key": "key.pem"}}})
}

fn by_grant(subject: &str) -> Value {
    json!({
        "clientAuthentication": {"method": "None"},
        "jwtBearer": {"keyRef": {"name": "client-key", "key": "key.pem"}, "subject": subject},
    })
}

fn entra(_: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        let words = "AADSTS901002: The 'resource' request parameter is not supported.";
        return refused("400 Bad Request", "invalid_request", words);
    }
    match form
        .get("scope")
        .and_then(|scope| scope.strip_suffix("/.default"))
    {
        Some(application) => issued(
            json!({"iss": format!("https://sts.windows.net/{TENANT}/"), "aud": application}),
            Some(3599),
        ),
        None => refused(
            "400 Bad Request",
            "invalid_scope",
            "AADSTS1002012: The provided value for scope is not valid.",
        ),
    }
}

fn okta(url: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["client_assertion"]);
    if assertion["aud"] != format!("{url}/oauth2/default/v1/token") {
        let words = "The audience claim for client_assertion must be the endpoint invoked for the request.";
        return refused("401 Unauthorized", "invalid_client", words);
    }
    issued(
        json!({"iss": format!("{url}/oauth2/default"), "aud": "api://default", "scp": ["tools.call"]}),
        Some(3600),
    )
}

fn auth0(url: &str, form: &Form) -> Answer {
    match form.get("audience") {
        Some(audience) => issued(
            json!({"iss": format!("{url}/"), "aud": audience, "gty": "client-credentials"}),
            Some(86_400),
        ),
        None => refused(
            "403 Forbidden",
            "access_denied",
            "No audience parameter was provided, and no default audience has been configured",
        ),
    }
}

fn google(_: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return refused(
            "400 Bad Request",
            "invalid_request",
            "Parameter not allowed: resource",
        );
    }
    let token = json!({"access_token": "ya29.c.b0AXv0zTO", "expires_in": 3599, "token_type": "Bearer"});
    ("200 OK", token)
}

fn cognito(url: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return ("400 Bad Request", json!({"error": "invalid_request"}));
    }
    let claims = json!({
        "iss": format!("{url}/eu-central-1_abc"), "client_id": "litellm", "token_use": "access", "scope": "tools/call",
    });
    issued(claims, Some(3600))
}

fn salesforce(_: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["assertion"]);
    if assertion["aud"] != "https://login.salesforce.com" {
        return refused("400 Bad Request", "invalid_grant", "audience is invalid");
    }
    let token = json!({
        "access_token": "00D5g0000000000!AQcAQH0dMHEXAMPLE", "scope": "api", "token_type": "Bearer",
        "instance_url": "https://company.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D5g0000000000EAA/0055g000000000AAA",
    });
    ("200 OK", token)
}

fn service_now(_: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["assertion"]);
    if assertion["aud"] != form["client_id"] {
        return refused("401 Unauthorized", "server_error", "access_denied");
    }
    let token = json!({
        "access_token": "LD3xzvXAMPLE", "scope": "useraccount", "token_type": "Bearer", "expires_in": 1799,
    });
    ("200 OK", token)
}

fn ping_federate(url: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return refused(
            "400 Bad Request",
            "invalid_target",
            "The requested resource is invalid, unknown, or malformed.",
        );
    }
    issued(json!({"iss": url, "client_id": "litellm"}), Some(7199))
}

fn ory(url: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["client_assertion"]);
    if assertion["aud"] != format!("{url}/oauth2/token") {
        let words = "Client authentication failed. Claim 'audience' from 'client_assertion' must match the \
                     authorization server's token endpoint.";
        return refused("401 Unauthorized", "invalid_client", words);
    }
    let audience = form.get("audience").into_iter().collect::<Vec<_>>();
    issued(json!({"iss": url, "aud": audience}), Some(3599))
}

fn zitadel(url: &str, form: &Form) -> Answer {
    let project = form["scope"].rsplit(':').nth(1).unwrap_or_default();
    issued(json!({"iss": url, "aud": [project]}), Some(43_199))
}

pub fn providers() -> Vec<Provider> {
    let app = format!("api://{APPLICATION}");
    let with = |grant: Value, more: Value| {
        let mut oauth2 = grant;
        merge(&mut oauth2, more);
        oauth2
    };
    vec![
        Provider {
            name: "Entra",
            issuer: Some("/00000000-0000-0000-0000-000000000000/v2.0"),
            token_path: "/00000000-0000-0000-0000-000000000000/oauth2/v2.0/token",
            oauth2: json!({"clientAuthentication": by_secret(), "audience": app}),
            answer: entra,
            forgotten: (reasons::REQUEST_FAILED, "AADSTS901002"),
        },
        Provider {
            name: "Okta",
            issuer: Some("/oauth2/default"),
            token_path: "/oauth2/default/v1/token",
            oauth2: json!({"clientAuthentication": by_key(), "scopes": ["tools.call"]}),
            answer: okta,
            forgotten: (reasons::REQUEST_FAILED, "privateKeyJwt.audience"),
        },
        Provider {
            name: "Auth0",
            issuer: Some("/"),
            token_path: "/oauth/token",
            oauth2: json!({"clientAuthentication": by_secret()}),
            answer: auth0,
            forgotten: (reasons::REQUEST_FAILED, "No audience parameter was provided"),
        },
        Provider {
            name: "Google",
            issuer: None,
            token_path: "/token",
            oauth2: with(
                by_grant("tools@p.iam.gserviceaccount.com"),
                json!({"scopes": ["https://www.googleapis.com/auth/cloud-platform"]}),
            ),
            answer: google,
            forgotten: (reasons::REQUEST_FAILED, "Parameter not allowed: resource"),
        },
        Provider {
            name: "Cognito",
            issuer: Some("/eu-central-1_abc"),
            token_path: "/oauth2/token",
            oauth2: json!({"clientAuthentication": by_secret(), "scopes": ["tools/call"]}),
            answer: cognito,
            forgotten: (reasons::REQUEST_FAILED, "invalid_request"),
        },
        Provider {
            name: "Salesforce",
            issuer: None,
            token_path: "/services/oauth2/token",
            oauth2: by_grant("integration@company.com"),
            answer: salesforce,
            forgotten: (reasons::REQUEST_FAILED, "audience is invalid"),
        },
        Provider {
            name: "ServiceNow",
            issuer: None,
            token_path: "/oauth_token.do",
            oauth2: by_grant("integration@company.com"),
            answer: service_now,
            forgotten: (reasons::REQUEST_FAILED, "server_error (access_denied)"),
        },
        Provider {
            name: "PingFederate",
            issuer: Some(""),
            oauth2: json!({"clientAuthentication": by_secret()}),
            token_path: "/as/token.oauth2",
            answer: ping_federate,
            forgotten: (reasons::REQUEST_FAILED, "an empty resource sends none"),
        },
        Provider {
            name: "Ory",
            issuer: Some(""),
            token_path: "/oauth2/token",
            oauth2: json!({"clientAuthentication": by_key()}),
            answer: ory,
            forgotten: (reasons::REQUEST_FAILED, "token endpoint"),
        },
        Provider {
            name: "Zitadel",
            issuer: Some(""),
            token_path: "/oauth/v2/token",
            oauth2: with(
                by_grant("service-user"),
                json!({"scopes": ["openid", "urn:zitadel:iam:org:project:id:123456789:aud"]}),
            ),
            answer: zitadel,
            forgotten: (reasons::TOKEN_MISMATCH, "123456789"),
        },
    ]
}
