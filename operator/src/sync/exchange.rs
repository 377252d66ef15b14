//! A user's own token, for a sidecar that asks: the pod is authenticated as for the stream, and only servers
//! that the pod is entitled to are answered for.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{Credentials, ResourceRef, UserTokenExchanger};
use mcp_auth_protocol::bounds::MAX_EXCHANGE_REQUEST_BYTES;
use mcp_auth_protocol::sync::{Credential, ExchangeRequest, ExchangeResponse, Pod};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::authenticate::{agree, place};
use super::{Sync, SyncError};
use crate::http::read_body;
use crate::leader_client::{ForwardedExchange, LeaderError};
use crate::metrics::ExchangeOutcome;
use crate::pods::Pods;
use crate::resources::Resources;

/// Longest wait for a turn among them: the sidecar waits for the answer no longer than for a change of the lead and an authorization
/// server.
const TURN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a new leader is waited for to read what a resource refers to, and how often it is looked whether it has.
const READING_TIMEOUT: Duration = Duration::from_secs(3);
const READING_INTERVAL: Duration = Duration::from_millis(50);

pub async fn exchange(State(sync): State<Arc<Sync>>, request: Request) -> Response {
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
    let (head, body) = request.into_parts();
    let pod = sync.authenticator.authenticate(&head).await?;
    // The pod's first: while it waits for those of its own it takes none of its namespace's.
    let turn = sync
        .exchanges_of_pods
        .take(pod.uid.clone(), 1, TURN_TIMEOUT)
        .await;
    let _turn_of_pod = turn.ok_or(SyncError::TooManyExchanges)?;
    let turn = sync.exchanges.take(pod.namespace.clone(), 1, TURN_TIMEOUT).await;
    let _turn = turn.ok_or(SyncError::TooManyExchanges)?;
    let body = read_body(body, MAX_EXCHANGE_REQUEST_BYTES).await;
    let exchange_request = parse(&body.map_err(SyncError::UnreadableBody)?)?;
    agree(&exchange_request.pod, &pod)?;
    let resource = server(&sync.resources, &sync.pods, &pod, &exchange_request.server).await?;
    if exchange_request.url != resource.spec.server.url {
        return Err(SyncError::OtherUrl);
    }
    if let Some(place) = place(&head) {
        place.entitled();
    }
    let mut leads = sync.leads.clone();
    if *leads.borrow() {
        return exchanged(&sync.credentials, &resource, &exchange_request).await;
    }
    let forwarded = ForwardedExchange {
        namespace: pod.namespace,
        resource: ResourceRef::from(&*resource).name,
        request: exchange_request,
    };
    // What the leader has exchanged for this user before, and has told this replica.
    let known = || {
        let ExchangeRequest {
            subject_token,
            refused,
            ..
        } = &forwarded.request;
        let user_tokens = sync.credentials.user_tokens();
        let credential = user_tokens.credential(&resource, subject_token, Timestamp::now())?;
        let is_refused = matches!(&credential, Credential::Bearer { id, .. } if Some(id) == refused.as_ref());
        (!is_refused).then(|| response(credential))
    };
    tokio::select! {
        answer = sync.leader.exchange(&forwarded, known) => answer.map_err(|error| match error {
            LeaderError::Refused { status, problem } => SyncError::OfLeader { status, problem },
            error => {
                debug!(%error, "the leader could not be asked for a user's token");
                SyncError::NotLeading
            }
        }),
        // While it waited for the next leader it has become that.
        true = elected(&mut leads) => exchanged(&sync.credentials, &resource, &forwarded.request).await,
    }
}

async fn elected(leads: &mut watch::Receiver<bool>) -> bool {
    leads.wait_for(|leads| *leads).await.is_ok()
}

/// The user's token, by the replica that leads.
pub async fn exchanged(
    credentials: &Credentials,
    resource: &McpServerAuth,
    request: &ExchangeRequest,
) -> Result<ExchangeResponse, SyncError> {
    let exchanger = exchanger(credentials, resource).await;
    let exchanger = exchanger.ok_or_else(|| SyncError::NoExchange(request.server.clone()))?;
    let credential = exchanger.credential(&request.subject_token, request.refused.as_deref());
    Ok(response(credential.await?))
}

fn response(credential: Credential) -> ExchangeResponse {
    ExchangeResponse {
        credential,
        sent_at: Some(Timestamp::now().as_second()),
    }
}

/// A leader that is new has it once it has read what the resource refers to.
async fn exchanger(credentials: &Credentials, resource: &McpServerAuth) -> Option<Arc<UserTokenExchanger>> {
    let deadline = Instant::now() + READING_TIMEOUT;
    loop {
        let published = credentials.published(resource);
        let is_being_read = published.as_ref().is_none_or(|state| {
            let problem = state.issuance.problem.as_ref();
            state.generation.is_none() || problem.is_some_and(|problem| problem.is_pending())
        });
        let exchanger = published.and_then(|state| state.exchanger);
        if exchanger.is_some() || !is_being_read || Instant::now() >= deadline {
            return exchanger;
        }
        sleep(READING_INTERVAL).await;
    }
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
async fn server(
    resources: &Resources,
    pods: &Pods,
    pod: &Pod,
    server: &str,
) -> Result<Arc<McpServerAuth>, SyncError> {
    let not_entitled = || SyncError::NotEntitled(server.chars().take(64).collect());
    let not_listed = || SyncError::NotListed(pod.namespace.clone());
    // Its pods are in no watch, so that each request would have the API server asked.
    if resources
        .in_namespace(&pod.namespace)
        .ok_or_else(not_listed)?
        .is_empty()
    {
        return Err(not_entitled());
    }
    let known = pods.get(&pod.namespace, &pod.name, &pod.uid).await;
    let known = known.map_err(|error| SyncError::ApiServer(error.to_string()))?;
    let known = known.ok_or_else(|| SyncError::NoSuchPod(format!("{}/{}", pod.namespace, pod.name)))?;
    let entitled = resources.entitled(&pod.namespace, known.labels());
    let mut entitled = entitled.ok_or_else(not_listed)?.into_iter();
    entitled
        .find(|resource| resource.spec.server.name == server)
        .ok_or_else(not_entitled)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use futures::{StreamExt, stream};
    use kube::Client;
    use kube::runtime::watcher::Event;
    use mcp_auth_credentials::Changes;
    use mcp_auth_protocol::reasons;

    use super::*;
    use crate::api_server::tests::not_found;
    use crate::liveness::Liveness;
    use crate::pods::PodNotices;

    #[tokio::test]
    async fn the_api_server_is_asked_for_no_pod_of_a_namespace_without_resources() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        // It knows no pod.
        let api_server = Router::new().fallback(async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            not_found()
        });
        let client = Client::new(api_server, "default");
        let (pods, _changed) = Pods::new(
            client,
            Changes::default(),
            PodNotices::none(),
            Liveness::default(),
        );
        let resource = serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "llm"},
            "spec": {
                "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            },
        }));
        let events = [Event::Init, Event::InitApply(resource.unwrap()), Event::InitDone];
        let events = stream::iter(events.map(Ok)).chain(stream::pending());
        let (resources, mut watch) =
            Resources::from_watches(vec![None], vec![events.boxed()], Changes::default());
        watch.next().await;
        let ask = async |namespace: &str| {
            let pod = Pod {
                namespace: namespace.into(),
                name: "litellm-0".into(),
                uid: "u1".into(),
            };
            let answer = server(&resources, &pods, &pod, "tools").await;
            (answer.unwrap_err().reason(), asked.load(Ordering::SeqCst))
        };
        for _ in 0..3 {
            assert_eq!(ask("strangers").await, (reasons::NOT_ENTITLED, 0));
        }
        assert_eq!(ask("llm").await, (reasons::NO_SUCH_POD, 1), "it may be new");
    }
}
