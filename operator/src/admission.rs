use axum::Router;
#[derive(Clone)]
pub struct Admission {
    pub settings: (),
    pub certificates: crate::certificates::Certificates,
    pub resources: crate::resources::Resources,
    pub metrics: crate::metrics::Metrics,
}
pub fn router(_a: Admission) -> Router {
    Router::new()
}
