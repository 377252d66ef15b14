//! The operator: from `McpServerAuth` resources and the Secrets they refer to, to tokens in the sidecars of
//! LiteLLM's pods. [`reconcile`] derives where each token comes from, [`token_sources`] get the tokens,
//! [`sync`] hands them out, [`status`] tells of them, [`inject`] puts the sidecars into the pods. [`run`]
//! wires them over what they share: resources, pods, credentials and the connected sidecars.

mod admission;
mod api_server;
mod args;
mod certificates;
mod changes;
mod connection_bounds;
mod credential_identity;
mod credentials;
mod entitlement;
mod http;
pub mod inject;
mod leader;
mod liveness;
mod metrics;
mod not_served;
mod pods;
mod reconcile;
mod references;
mod resource_ref;
mod resources;
mod routes;
mod run;
mod sidecars;
mod status;
mod sync;
mod token_refresh_requests;
mod token_sources;
mod user_token_exchanger;
mod workload;

pub use args::Args;
pub use run::run;
