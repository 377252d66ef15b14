//! What runs beside the data path: learns routes and credentials from the operator, configures LiteLLM and
//! looks after it, and answers Kubernetes.

mod clock_offset;
pub mod context_checks;
pub mod controller;
pub mod drain;
pub mod exchange_client;
pub mod health_client;
mod health_connections;
pub mod litellm;
pub mod litellm_config;
pub mod outbound_secret;
pub mod probes;
pub mod proc_net;
mod reachability_reports;
pub mod shared_folder;
mod sock_diag;
pub mod start_problems;
pub mod sync_client;
