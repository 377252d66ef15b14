//! What authorization servers read of managed keys, in plain HTTP behind an Ingress: for each client its JWK set (RFC
//! 7517 section 5), and a client ID metadata document (draft-ietf-oauth-client-id-metadata-document). Both hold nothing
//! that is secret; every replica serves them.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mcp_auth_crds::{ExchangeProfile, McpServerAuth, OAuth2, ServiceToken, TokenType};
use mcp_auth_credentials::ResourceRef;
use mcp_auth_oauth::Algorithm;
use serde_json::{Value, json};

use super::{ManagedKeys, metadata_url, wants_key};
use crate::resources::{Resources, object_ref};

/// How long an answer may be kept. A key is published for an hour at least before it signs.
const CACHED: (HeaderName, &str) = (CACHE_CONTROL, "public, max-age=300");

#[derive(Clone)]
pub(super) struct Publisher {
    pub keys: ManagedKeys,
    pub resources: Resources,
}

/// Below the path of the public URL too, for an Ingress that leaves paths as they are.
pub fn router(keys: ManagedKeys, resources: Resources) -> Router {
    let url = keys.0.config.as_ref().and_then(|config| config.url.clone());
    let publisher = Publisher { keys, resources };
    let router = Router::new()
        .route("/clients/{namespace}/{name}/jwks.json", get(key_set))
        .route("/clients/{namespace}/{name}/client.json", get(metadata))
        .with_state(publisher);
    match url.as_ref().map(|url| url.path()) {
        Some(path) if !path.is_empty() => Router::new().nest(path, router.clone()).merge(router),
        _ => router,
    }
}

pub fn key_set_path(ResourceRef { namespace, name }: &ResourceRef) -> String {
    format!("/clients/{namespace}/{name}/jwks.json")
}

pub fn metadata_path(ResourceRef { namespace, name }: &ResourceRef) -> String {
    format!("/clients/{namespace}/{name}/client.json")
}

pub(super) async fn key_set(
    State(Publisher { keys, .. }): State<Publisher>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let keys = keys.0.keys.read();
    let Some(keys) = keys.as_ref() else {
        return not_known_yet();
    };
    match keys.get(&ResourceRef { namespace, name }) {
        Some(keys) => found("application/jwk-set+json", &json!({"keys": keys.published()})),
        None => unknown_client(),
    }
}

pub(super) async fn metadata(
    State(Publisher { keys, resources }): State<Publisher>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let resource_ref = ResourceRef { namespace, name };
    let algorithm = match &*keys.0.keys.read() {
        None => return not_known_yet(),
        Some(keys) => keys.get(&resource_ref).map(|keys| keys.current.key.algorithm()),
    };
    let resource = resources.store().get(&object_ref(&resource_ref));
    let resource = resource.filter(|resource| wants_key(resource));
    let document = algorithm.zip(resource).and_then(|(algorithm, resource)| {
        let config = keys.0.config.as_ref()?;
        let client_id = metadata_url(config, &resource_ref)?;
        let key_set = config.url.as_ref()?.join(&key_set_path(&resource_ref));
        document(&resource, algorithm, &client_id, &key_set)
    });
    match document {
        Some(document) => found("application/json", &document),
        None => unknown_client(),
    }
}

/// Client metadata (RFC 7591 section 2) of a client that has no front end, and so no redirect URIs.
fn document(resource: &McpServerAuth, algorithm: Algorithm, client_id: &str, key_set: &str) -> Option<Value> {
    let ResourceRef { namespace, name } = ResourceRef::from(resource);
    let oauth2 = resource.spec.oauth2.as_ref()?;
    let mut document = json!({
        "client_id": client_id,
        "client_name": format!("mcp-auth {namespace}/{name}"),
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": algorithm.as_str(),
        "jwks_uri": key_set,
        "grant_types": grants(oauth2),
        "response_types": [],
        "redirect_uris": [],
    });
    if !oauth2.scopes.is_empty() {
        document["scope"] = oauth2.scopes.join(" ").into();
    }
    if oauth2.token_type == TokenType::DPoP {
        document["dpop_bound_access_tokens"] = true.into();
    }
    Some(document)
}

fn grants(oauth2: &OAuth2) -> Vec<&'static str> {
    const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let service = match (oauth2.service_token, &oauth2.jwt_bearer) {
        (ServiceToken::None, _) => None,
        (ServiceToken::Requested, Some(_)) => Some(JWT_BEARER),
        (ServiceToken::Requested, None) => Some("client_credentials"),
    };
    let exchange = oauth2.token_exchange.as_ref();
    let exchange = exchange.map(|exchange| match exchange.profile {
        ExchangeProfile::Rfc8693 => "urn:ietf:params:oauth:grant-type:token-exchange",
        ExchangeProfile::EntraObo | ExchangeProfile::IdJag => JWT_BEARER,
    });
    let mut grants: Vec<_> = service.into_iter().chain(exchange).collect();
    grants.dedup();
    grants
}

fn found(content_type: &'static str, content: &Value) -> Response {
    ([(CONTENT_TYPE, content_type), CACHED], content.to_string()).into_response()
}

/// An answer that a server keeps would outlive its reason.
fn unknown_client() -> Response {
    (
        StatusCode::NOT_FOUND,
        [(CACHE_CONTROL, "no-store")],
        "there is no such client",
    )
        .into_response()
}

fn not_known_yet() -> Response {
    let headers = [(CACHE_CONTROL, "no-store"), (RETRY_AFTER, "1")];
    (
        StatusCode::SERVICE_UNAVAILABLE,
        headers,
        "the keys have not been read yet",
    )
        .into_response()
}
