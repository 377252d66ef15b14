//! Routes: what a sidecar needs to know of an `McpServerAuth` resource to forward calls to its server, apart
//! from the token.

use mcp_auth_crds::{
    Audit, AuditLevel, Http2, LiteLlm, McpServerAuth, TokenExchange, Transport, UserContext,
};
use mcp_auth_protocol::sync;

use crate::credential_identity::CredentialIdentity;
use crate::store::CredentialState;

/// The server of a resource with the state of its credential, as a snapshot holds it. `addresses` are those that the
/// administrator allows it.
pub fn server(
    resource: &McpServerAuth,
    state: CredentialState,
    addresses: Option<sync::ServerAddresses>,
) -> sync::Server {
    let mut route = route(resource);
    route.ca_bundle = state.connection.ca_bundle.as_deref().map(str::to_owned);
    let audit_user = route.audit.as_mut().and_then(|audit| audit.user.as_mut());
    if let Some(verification) = audit_user.and_then(|user| user.verification.as_mut()) {
        verification.keys = state.audit_keys.to_vec();
    }
    sync::Server {
        route,
        resource_uid: resource.metadata.uid.clone(),
        credential: state.credential,
        client_certificate: state.connection.client_certificate,
        egress_proxy: state.connection.egress_proxy,
        addresses,
        declined: state.declined,
    }
}

/// The route of a resource. It holds no secret, so that it may stand in a pod's environment.
pub fn route(resource: &McpServerAuth) -> sync::Route {
    let spec = &resource.spec;
    let oauth2 = spec.oauth2.as_ref();
    let exchanges = oauth2.is_some_and(|oauth2| oauth2.token_exchange.is_some());
    sync::Route {
        resource: resource.metadata.name.clone().unwrap_or_default(),
        server: spec.server.name.clone(),
        url: spec.server.url.clone(),
        transport: match spec.server.transport {
            Transport::StreamableHttp => sync::Transport::StreamableHttp,
            Transport::Sse => sync::Transport::Sse,
        },
        http1_only: spec.server.http2 == Http2::Disabled,
        answer_timeout_seconds: spec.server.answer_timeout.as_deref().and_then(whole_seconds),
        ca_bundle: None,
        cookies: match spec.cookie_passthrough.enabled {
            Some(true) => spec.cookie_passthrough.cookie_names.clone(),
            Some(false) | None => Vec::new(),
        },
        affinity_cookies: spec.server.affinity_cookies.clone(),
        headers: spec
            .header_passthrough
            .header_names
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        user_context: match spec.user_context {
            UserContext::Optional => sync::UserContext::Optional,
            UserContext::Required => sync::UserContext::Required,
        },
        exchange: oauth2.and_then(|oauth2| subject_token(oauth2.token_exchange.as_ref()?)),
        credential_identity: match exchanges {
            true => CredentialIdentity::for_resource(resource).digest(),
            false => String::new(),
        },
        audit: audit(&spec.audit),
        litellm: spec.litellm.as_ref().map(litellm),
    }
}

/// What the server is registered in LiteLLM with.
fn litellm(settings: &LiteLlm) -> sync::LiteLlmSettings {
    let LiteLlm {
        description,
        alias,
        instructions,
        allowed_tools,
        disallowed_tools,
        allowed_parameters,
        access_groups,
        allow_all_keys,
        available_on_public_internet,
        allow_sampling,
        allow_elicitation,
        timeout_seconds,
        max_concurrent_requests,
        requests_per_minute,
    } = settings.clone();
    // The schema allows nothing below 1.
    let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    sync::LiteLlmSettings {
        description,
        alias,
        instructions,
        allowed_tools,
        disallowed_tools,
        allowed_parameters,
        access_groups,
        allow_all_keys,
        available_on_public_internet,
        allow_sampling,
        allow_elicitation,
        timeout_seconds: number(timeout_seconds),
        max_concurrent_requests: number(max_concurrent_requests),
        requests_per_minute: number(requests_per_minute),
    }
}

/// Of `400s` the 400. The schema lets nothing else pass.
fn whole_seconds(text: &str) -> Option<u32> {
    text.strip_suffix('s')?.parse().ok()
}

/// Where a user's request carries the subject token of the token exchange (RFC 8693).
fn subject_token(exchange: &TokenExchange) -> Option<sync::SubjectTokenSource> {
    let cookie = exchange
        .subject_cookie
        .clone()
        .map(sync::SubjectTokenSource::Cookie);
    let header = exchange.subject_header.as_ref();
    cookie.or_else(|| header.map(|name| sync::SubjectTokenSource::Header(name.to_ascii_lowercase())))
}

/// What is recorded of each call; nothing where that is off.
fn audit(audit: &Audit) -> Option<sync::Audit> {
    let user = audit.user.as_ref().and_then(|user| {
        let cookie = user.cookie.clone().map(sync::SubjectTokenSource::Cookie);
        let header = user.header.as_ref();
        let from = cookie
            .or_else(|| header.map(|name| sync::SubjectTokenSource::Header(name.to_ascii_lowercase())))?;
        Some(sync::AuditUser {
            from,
            claim: user.claim.clone(),
            verification: user.jwks.as_ref().map(|jwks| sync::JwtVerification {
                issuer: jwks.issuer.clone(),
                audience: jwks.audience.clone(),
                keys: Vec::new(),
            }),
        })
    });
    let argument_names = match audit.level {
        AuditLevel::Off => return None,
        AuditLevel::Metadata => false,
        AuditLevel::ArgumentNames => true,
    };
    Some(sync::Audit { argument_names, user })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_listed_only_where_enabled_and_headers_in_lower_case() {
        let resource: McpServerAuth = serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": "a", "namespace": "apps"},
            "spec": {
                "server": {"name": "tools", "url": "https://a.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                "cookiePassthrough": {"enabled": false, "cookieNames": ["session_id"]},
                "headerPassthrough": {"headerNames": ["X-Forwarded-User"]},
            },
        }))
        .unwrap();
        let route = route(&resource);
        assert!(route.cookies.is_empty());
        assert_eq!(route.headers, ["x-forwarded-user"]);
        assert_eq!(
            route.audit,
            Some(sync::Audit::default()),
            "metadata is the default"
        );
    }

    #[test]
    fn the_audit_level_and_the_users_source_go_to_the_sidecar() {
        let audit = |value: serde_json::Value| super::audit(&serde_json::from_value(value).unwrap());
        assert_eq!(
            audit(serde_json::json!({"level": "Off", "user": {"cookie": "sid"}})),
            None
        );
        let names = audit(serde_json::json!({
            "level": "ArgumentNames",
            "user": {"header": "X-Id-Token", "claim": "email"},
        }));
        let user = sync::AuditUser {
            from: sync::SubjectTokenSource::Header("x-id-token".into()),
            claim: Some("email".into()),
            verification: None,
        };
        let expected = sync::Audit {
            argument_names: true,
            user: Some(user),
        };
        assert_eq!(names, Some(expected));
    }
}
