//! The webhook's endpoint: looks up what the pod is entitled to and lets [`crate::inject`] decide.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use mcp_auth_credentials::routes::route;
use mcp_auth_protocol::sync::Route;
use tracing::{info, warn};

use crate::certificates::Certificates;
use crate::entitlement::entitled;
use crate::inject::{self, Settings};
use crate::metrics::Metrics;
use crate::resources::Resources;

/// Where the API server sends its reviews.
const PATH: &str = "/v1/inject";

#[derive(Clone)]
pub struct Admission {
    /// What every sidecar gets, but for the authority, which can change.
    pub settings: Settings,
    pub certificates: Certificates,
    pub resources: Resources,
    pub metrics: Metrics,
}

pub fn router(admission: Admission) -> Router {
    Router::new().route(PATH, post(review)).with_state(admission)
}

async fn review(
    State(admission): State<Admission>,
    Json(review): Json<AdmissionReview<Pod>>,
) -> Json<AdmissionReview<DynamicObject>> {
    let request: AdmissionRequest<Pod> = match review.try_into() {
        Ok(request) => request,
        Err(error) => return Json(AdmissionResponse::invalid(error.to_string()).into_review()),
    };
    let mut settings = admission.settings.clone();
    settings.operator.ca = admission.certificates.authority();
    let response = inject::review(&request, &admission.routes(&request), &settings);
    note(&request, &response);
    let reason = response.audit_annotations.get(inject::AUDIT_KEY);
    admission.metrics.reviewed(reason.map_or("Other", String::as_str));
    Json(response.into_review())
}

impl Admission {
    fn routes(&self, request: &AdmissionRequest<Pod>) -> Vec<Route> {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let labels = request
            .object
            .as_ref()
            .and_then(|pod| pod.metadata.labels.clone())
            .unwrap_or_default();
        entitled(&self.resources.in_namespace(namespace), &labels)
            .iter()
            .map(|resource| route(resource))
            .collect()
    }
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
