//! The webhook's endpoint: looks up what the pod is entitled to and lets [`crate::inject`] decide. Any pod of the cluster may call
//! it, within [`review_bounds`].

mod known_addresses;
mod lookups_in_vain;
mod review_bounds;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::route;
use mcp_auth_protocol::sync::Route;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::certificates::Certificates;
use crate::inject::{self, NOT_INJECTED_REASONS, NamespaceLimits, RoutesInPod, Settings};
use crate::metrics::Metrics;
use crate::namespace_limits::NamespaceLimitsLookup;
use crate::object_names::is_dns_label;
use crate::pod_owners::{Ownership, PodOwners, controller};
use crate::refused_pods::{RefusedPod, RefusedPods};
use crate::resources::Resources;
use crate::webhook_calls::WebhookCalls;
use crate::workload_events::{NoticeKind, WorkloadEvents};
use lookups_in_vain::LookupScope;
pub use review_bounds::ReviewBounds;
use review_bounds::ReviewBoundsError;

/// Where the API server sends its reviews.
const PATH: &str = "/v1/inject";
/// How long after its arrival a review waits for what it has the API server asked, all of that together: well below the timeout of
/// the chart's webhook (5 s), after which the pod would start without the sidecar.
const LOOKUP_TIME: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Admission {
    /// What every sidecar gets, but for the authority, which can change.
    pub settings: Settings,
    pub certificates: Certificates,
    pub resources: Resources,
    pub metrics: Metrics,
    pub calls: WebhookCalls,
    pub refused: RefusedPods,
    pub owners: PodOwners,
    pub namespace_limits: NamespaceLimitsLookup,
    pub bounds: ReviewBounds,
    pub events: WorkloadEvents,
}

pub fn router(admission: Admission) -> Router {
    Router::new().route(PATH, post(review)).with_state(admission)
}

async fn review(
    State(admission): State<Admission>,
    request: Request,
) -> Result<Json<AdmissionReview<DynamicObject>>, (StatusCode, String)> {
    let deadline = Instant::now() + lookup_time(request.uri());
    let beyond = |error: ReviewBoundsError| {
        warn!(%error, "a review was not looked at");
        admission.metrics.reviewed("OutOfBounds");
        (error.status(), error.to_string())
    };
    let body = admission.bounds.body(request).await.map_err(beyond)?;
    // Until the answer is made.
    let _room = admission.bounds.parsed(&body).await.map_err(beyond)?;
    let address = body.address;
    let request: AdmissionRequest<Pod> = match parse(&body.bytes)?.try_into() {
        Ok(request) => request,
        Err(error) => return Ok(Json(AdmissionResponse::invalid(error.to_string()).into_review())),
    };
    drop(body);
    if !is_dns_label(request.namespace.as_deref().unwrap_or_default()) {
        return Err(no_namespace(&admission.metrics));
    }
    let Some(entitled) = admission.entitled(&request) else {
        return Err(not_listed(&admission.metrics, &request));
    };
    let mut settings = admission.settings.clone();
    settings.operator.ca = admission.certificates.authority();
    settings.folder_name = inject::unguessable_name();
    // Anybody may ask; who asks for a pod that no workload of the namespace makes hears of no route.
    let (is_owned, namespace_limits) = match entitled.is_empty() {
        true => (false, NamespaceLimits::default()),
        false => admission.look_up(&request, address, deadline).await,
    };
    settings.namespace_limits = namespace_limits;
    settings.routes_in_pod = match is_owned {
        true => RoutesInPod::Told,
        false => RoutesInPod::Withheld,
    };
    let routes: Vec<Route> = entitled.iter().map(|resource| route(resource)).collect();
    let response = inject::review(&request, &routes, &settings);
    note(&request, &response);
    if is_owned {
        admission.calls.record();
        admission.record_refusal(&request, &response);
    }
    if entitled.is_empty() {
        admission.tell_owner(&request, &response, address, deadline).await;
    }
    admission.metrics.reviewed(decision(&response));
    Ok(Json(response.into_review()))
}

/// Where the webhook's timeout is shorter, there is less time. An API server states it (`?timeout=5s`).
fn lookup_time(uri: &Uri) -> Duration {
    let parameters = uri.query().unwrap_or_default().split('&');
    let timeout = parameters
        .filter_map(|parameter| parameter.strip_prefix("timeout=")?.strip_suffix('s'))
        .find_map(|seconds| seconds.parse::<u32>().ok());
    timeout.map_or(LOOKUP_TIME, |seconds| {
        LOOKUP_TIME.min(Duration::from_secs(seconds.into()) * 3 / 5)
    })
}

fn parse(body: &[u8]) -> Result<AdmissionReview<Pod>, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| {
        // The error itself may quote the pod.
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is no AdmissionReview: at line {line}, column {column}");
        (StatusCode::BAD_REQUEST, message)
    })
}

/// No API server sends that. Nothing is asked about such a namespace, whose name would be part of a request's path.
fn no_namespace(metrics: &Metrics) -> (StatusCode, String) {
    warn!("a review was not looked at: its namespace is no name that a namespace can have");
    metrics.reviewed("InvalidNamespace");
    let message = "the review's namespace is no name that a namespace can have (a DNS label)";
    (StatusCode::BAD_REQUEST, message.to_owned())
}

/// What the pod needs is not known. The API server takes that for a webhook that failed, so that the webhook's
/// `failurePolicy` says what becomes of the pod.
fn not_listed(metrics: &Metrics, request: &AdmissionRequest<Pod>) -> (StatusCode, String) {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    warn!(
        namespace,
        "a pod could not be reviewed: the resources of its namespace have not been listed"
    );
    metrics.reviewed("NotListed");
    let message =
        format!("mcp-auth: the McpServerAuth resources of namespace {namespace} have not been listed");
    (StatusCode::SERVICE_UNAVAILABLE, message)
}

impl Admission {
    /// Nothing where the resources of the namespace have not been listed.
    fn entitled(&self, request: &AdmissionRequest<Pod>) -> Option<Vec<Arc<McpServerAuth>>> {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let labels = request
            .object
            .as_ref()
            .and_then(|pod| pod.metadata.labels.clone())
            .unwrap_or_default();
        self.resources.entitled(namespace, &labels)
    }

    fn lookup_scope(&self, namespace: &str) -> LookupScope {
        match self.resources.has_any_in(namespace) {
            true => LookupScope::Namespace(namespace.to_owned()),
            false => LookupScope::WithoutResources,
        }
    }

    /// Whether a workload of the namespace makes the pod, and the limits of the namespace, of which strangers hear neither amounts nor
    /// names.
    async fn look_up(
        &self,
        request: &AdmissionRequest<Pod>,
        address: IpAddr,
        deadline: Instant,
    ) -> (bool, NamespaceLimits) {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let scope = self.lookup_scope(namespace);
        let Some(_turn) = self.bounds.lookup(address, &scope, deadline).await else {
            return (false, NamespaceLimits::default());
        };
        let limits = self.namespace_limits.list(namespace, deadline);
        let (ownership, limits) = match PodOwners::to_ask_about(owners(request)) {
            Ok(_) => tokio::join!(self.ownership(request, deadline), limits),
            Err(Ownership::Unknown) if self.bounds.looks_up_without_owner(address, &scope) => {
                (Ownership::Unknown, limits.await)
            }
            Err(ownership) => (ownership, NamespaceLimits::default()),
        };
        match ownership {
            Ownership::Exists => {
                self.bounds.has_existing_owner(address);
                return (true, limits);
            }
            Ownership::MadeUp => self.bounds.looked_up_in_vain(address, &scope),
            Ownership::Unknown => {}
        }
        (false, limits.withheld())
    }

    /// Whether a workload of the namespace makes the pod.
    async fn ownership(&self, request: &AdmissionRequest<Pod>, deadline: Instant) -> Ownership {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        self.owners.look_up(namespace, owners(request), deadline).await
    }

    /// Tells the workload of a pod that no resource selects, such as one with the label that asks for the sidecar in a namespace
    /// without resources: pods are watched, and told of by the leader, only where resources are.
    async fn tell_owner(
        &self,
        request: &AdmissionRequest<Pod>,
        response: &AdmissionResponse,
        address: IpAddr,
        deadline: Instant,
    ) {
        let Some((kind, text)) = notice(response).filter(|_| !request.dry_run) else {
            return;
        };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let scope = self.lookup_scope(namespace);
        let Some(_turn) = self.bounds.lookup(address, &scope, deadline).await else {
            return;
        };
        match self.ownership(request, deadline).await {
            Ownership::Exists => {
                self.bounds.has_existing_owner(address);
                self.calls.record();
                self.events
                    .tell_owner(namespace, controller(owners(request)), kind, &text);
            }
            Ownership::MadeUp => self.bounds.looked_up_in_vain(address, &scope),
            Ownership::Unknown => {}
        }
    }

    /// A pod that is refused never exists, and cannot say why.
    fn record_refusal(&self, request: &AdmissionRequest<Pod>, response: &AdmissionResponse) {
        let pod = request.object.as_ref();
        let Some(pod) = pod.filter(|_| !request.dry_run && !response.allowed) else {
            return;
        };
        let Some(owner) = controller(pod.metadata.owner_references.as_deref().unwrap_or_default()) else {
            return;
        };
        let now = Timestamp::now();
        let refused = RefusedPod {
            namespace: request.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            owner: owner.clone(),
            text: format!("{}: {}", decision(response), response.result.message),
            at: now,
        };
        self.refused.record(refused, now);
    }
}

/// The decision's reason.
fn decision(response: &AdmissionResponse) -> &str {
    let reason = response.audit_annotations.get(inject::AUDIT_KEY);
    reason.map_or("Other", String::as_str)
}

/// What there is to tell the workload of a pod.
fn notice(response: &AdmissionResponse) -> Option<(NoticeKind, String)> {
    let reason = decision(response);
    if !response.allowed {
        return Some((
            NoticeKind::Refused,
            format!("{reason}: {}", response.result.message),
        ));
    }
    let warnings = response.warnings.as_ref()?.join("; ");
    let kind = match reason {
        "Injected" | "AlreadyInjected" => NoticeKind::Warning,
        _ if NOT_INJECTED_REASONS.contains(&reason) => NoticeKind::NotInjected,
        _ => NoticeKind::UnknownAnnotation,
    };
    Some((kind, format!("{reason}: {warnings}")))
}

fn owners(request: &AdmissionRequest<Pod>) -> &[OwnerReference] {
    let metadata = request.object.as_ref().map(|pod| &pod.metadata);
    let owners = metadata.and_then(|metadata| metadata.owner_references.as_deref());
    owners.unwrap_or_default()
}

fn note(request: &AdmissionRequest<Pod>, response: &AdmissionResponse) {
    let namespace = request.namespace.as_deref();
    let metadata = request.object.as_ref().map(|pod| &pod.metadata);
    let name = metadata.and_then(|metadata| metadata.name.as_deref().or(metadata.generate_name.as_deref()));
    let reason = response.audit_annotations.get(inject::AUDIT_KEY);
    let warnings = response.warnings.as_ref().map(|warnings| warnings.join("; "));
    match response.allowed {
        true => info!(namespace, name, reason, warnings, "pod reviewed"),
        false => warn!(
            namespace,
            name,
            reason,
            message = response.result.message,
            "pod refused"
        ),
    }
}

#[cfg(test)]
mod tests;
