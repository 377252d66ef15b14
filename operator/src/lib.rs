//! The operator: from `McpServerAuth` resources and the Secrets they refer to, to tokens in the sidecars of
//! LiteLLM's pods. [`reconcile`] gets the tokens, [`sync`] hands them out, [`inject`] puts the sidecars into the
//! pods; none of them knows another. [`run`] wires them over what they share: resources, pods, credentials and
//! the connected sidecars.

mod admission;
mod api_server;
mod args;
mod certificates;
mod changes;
mod credentials;
mod demands;
mod entitlement;
mod exchanges;
mod http;
pub mod inject;
mod key;
mod leader;
mod metrics;
mod pods;
mod reconcile;
mod references;
mod resources;
mod routes;
mod run;
mod sidecars;
mod sync;
mod workload;

pub use args::Args;
pub use run::run;
