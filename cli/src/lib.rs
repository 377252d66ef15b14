//! `kubectl mcp-auth`: says how an installation does, what is wrong with it, and what to do about it. Each
//! command reads from the cluster, judges by pure functions and prints for people or for programs. [`run`]
//! starts the command that [`args`] name.

pub mod args;
mod cluster;
mod completion;
mod criteria;
mod doctor;
mod error;
mod exit_code;
mod explain;
mod import;
mod inventory;
mod kubeconfig;
mod litellm_key;
mod logs;
mod lookup;
mod mcp_call;
mod operator_version;
mod outcome;
mod output;
pub mod reference;
mod render;
mod run;
mod standard_error;
mod status;
mod token;
mod token_summary;
mod webhook_scope;

pub use cluster::UNANSWERED_LIMIT;
pub use exit_code::ExitStatus;
pub use run::run;
