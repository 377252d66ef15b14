//! Users' tokens for sidecars that are connected to a follower: it has authenticated the pod and looked whether it is
//! entitled, and the leader holds the client's credentials.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use mcp_auth_credentials::ResourceRef;
use mcp_auth_protocol::bounds::MAX_EXCHANGE_REQUEST_BYTES;
use mcp_auth_protocol::sync::ExchangeResponse;

use super::Replicas;
use crate::http::read_body;
use crate::leader_client::ForwardedExchange;
use crate::resources::object_ref;
use crate::sync::{SyncError, exchanged};

/// What a follower adds to a sidecar's request.
const ENVELOPE_BYTES: usize = 1024;

pub async fn exchange(State(replicas): State<Replicas>, request: Request) -> Response {
    match answer(&replicas, request).await {
        Ok(exchanged) => Json(exchanged).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn answer(replicas: &Replicas, request: Request) -> Result<ExchangeResponse, SyncError> {
    let (head, body) = request.into_parts();
    replicas
        .authenticator
        .authenticate_replica(&head, &replicas.account)
        .await?;
    if !*replicas.leads.borrow() {
        return Err(SyncError::NotLeading);
    }
    let body = read_body(body, MAX_EXCHANGE_REQUEST_BYTES + ENVELOPE_BYTES).await;
    let body = body.map_err(SyncError::UnreadableBody)?;
    // An error of serde may quote the user's token.
    let forwarded: ForwardedExchange = serde_json::from_slice(&body)
        .map_err(|_| SyncError::NoExchangeRequest("a field is missing or of another type"))?;
    let resource_ref = ResourceRef {
        namespace: forwarded.namespace,
        name: forwarded.resource,
    };
    let resource = replicas.resources.store().get(&object_ref(&resource_ref));
    let no_exchange = || SyncError::NoExchange(forwarded.request.server.clone());
    let resource = resource.ok_or_else(no_exchange)?;
    // The follower's watch may be a moment behind this one's.
    if forwarded.request.url != resource.spec.server.url {
        return Err(SyncError::OtherUrl);
    }
    exchanged(&replicas.credentials, &resource, &forwarded.request).await
}
