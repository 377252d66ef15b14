//! The operator: from `McpServerAuth` resources and the Secrets they refer to, to tokens in the sidecars of
//! LiteLLM's pods. [`reconcile`] derives where each token comes from, the token sources of
//! [`mcp_auth_credentials`] get the tokens, [`sync`] hands them out, [`status`] tells of them, [`inject`]
//! puts the sidecars into the pods. [`run`] wires them over what they share: resources, pods, credentials
//! and the connected sidecars.

mod admission;
mod api_server;
mod args;
mod certificates;
mod connection_bounds;
mod entitlement;
mod event_recorder;
mod exchange_limits;
mod http;
pub mod inject;
mod inject_command;
pub mod kubeconfig;
mod leader;
mod leader_client;
mod liveness;
mod log;
mod managed_keys;
mod metrics;
mod namespace_index;
mod namespace_limits;
mod namespaces;
mod not_watched;
mod object_names;
mod pod_owners;
mod pods;
mod reconcile;
mod references;
mod refused_pods;
mod replicas;
mod resources;
mod restarts;
mod run;
mod shares;
mod sidecars;
mod status;
mod sync;
mod tenant_limits;
mod version_skew;
mod webhook_calls;
mod workload;
mod workload_events;

pub use args::{Args, Command};
pub use entitlement::{Labels, entitled, selects};
pub use inject_command::{
    ChartArgs, ChartSettings, InjectArgs, InjectCommandError, Installation, ManifestError, Manifests,
    PodManifest, Preview, inject as run_inject, is_standard_input, preview_with_routes, previews,
};
pub use pods::{PodFacts, PodMeta, SERVING_PODS, is_injected, ought_to_be_injected};
pub use references::SecretsGrant;
pub use run::run;
pub use status::reachability_advice;
