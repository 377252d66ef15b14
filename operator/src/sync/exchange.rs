//! A user's own token, for a sidecar that asks: the pod is authenticated as for the stream, and only servers
//! that the pod is entitled to are answered for.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_protocol::bounds::MAX_EXCHANGE_REQUEST_BYTES;
use mcp_auth_protocol::sync::{ExchangeRequest, ExchangeResponse, Pod};
use tracing::warn;

use super::authenticate::agree;
use super::{Sync, SyncError};
use crate::entitlement::entitled;
use crate::http::read_body;
use crate::metrics::ExchangeOutcome;

pub async fn exchange(State(sync): State<Sync>, request: Request) -> Response {
    match answer(&sync, request).await {
        Ok(exchanged) => {
            sync.metrics.exchanged(ExchangeOutcome::Issued);
            Json(exchanged).into_response()
        }
        Err(error) => {
            warn!(reason = error.reason(), %error, "a user's token was not exchanged");
            sync.metrics.exchanged(ExchangeOutcome::Failed);
            error.into_response()
        }
    }
}

async fn answer(sync: &Sync, request: Request) -> Result<ExchangeResponse, SyncError> {
    if !*sync.leads.borrow() {
        return Err(SyncError::NotLeading);
    }
    let (head, body) = request.into_parts();
    let pod = sync.authenticator.authenticate(&head.headers).await?;
    let body = read_body(body, MAX_EXCHANGE_REQUEST_BYTES).await;
    let exchange_request = parse(&body.map_err(SyncError::UnreadableBody)?)?;
    agree(&exchange_request.pod, &pod)?;
    let resource = server(sync, &pod, &exchange_request.server).await?;
    if exchange_request.url != resource.spec.server.url {
        return Err(SyncError::OtherUrl);
    }
    let exchanger = sync.credentials.exchanger(&resource);
    let exchanger = exchanger.ok_or_else(|| SyncError::NoExchange(exchange_request.server.clone()))?;
    let credential = exchanger.credential(
        &exchange_request.subject_token,
        exchange_request.refused.as_deref(),
    );
    Ok(ExchangeResponse {
        credential: credential.await?,
        sent_at: Some(Timestamp::now().as_second()),
    })
}

/// A serde error may quote the request, which holds a token, so only its kind is repeated.
fn parse(body: &Bytes) -> Result<ExchangeRequest, SyncError> {
    serde_json::from_slice(body).map_err(|error| {
        SyncError::NoExchangeRequest(match error.classify() {
            serde_json::error::Category::Data => "a field is missing or of another type",
            _ => "it is no JSON",
        })
    })
}

/// The resource that the pod reaches this server by.
async fn server(sync: &Sync, pod: &Pod, server: &str) -> Result<Arc<McpServerAuth>, SyncError> {
    let labels = sync.pods.labels(&pod.namespace, &pod.name, &pod.uid).await;
    let labels = labels.map_err(|error| SyncError::ApiServer(error.to_string()))?;
    let labels = labels.ok_or_else(|| SyncError::NoSuchPod(format!("{}/{}", pod.namespace, pod.name)))?;
    let resources = sync.resources.in_namespace(&pod.namespace);
    let resources = resources.ok_or_else(|| SyncError::NotListed(pod.namespace.clone()))?;
    entitled(&resources, &labels)
        .into_iter()
        .find(|resource| resource.spec.server.name == server)
        .ok_or_else(|| SyncError::NotEntitled(server.chars().take(64).collect()))
}
