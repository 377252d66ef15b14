//! Injection: turns a pod that is being created into a JSON patch that adds the sidecar. Pure. [`decide`]
//! says what becomes of a pod; [`review`] turns that into the answer of the admission webhook.
//!
//! - `annotations` and `options`: what users ask for.
//! - `target`, `role` and `image`: which container LiteLLM runs in, and what it is started by, also behind an
//!   `exec_wrapper` and in a `shell_script`, and the `written_files` of that.
//! - `config`, `litellm_options` and `wrapper`: where its configuration is, and how it comes to read the overlay
//!   as well; `overlay_folder`: where the overlay is.
//! - `mesh` and `later_webhooks`: others that change the pod.
//! - `trusted_proxies`: whom LiteLLM believes about a client's address.
//! - `ports` and `listen_address`: which ports, and where on; `relocation`: whether
//!   LiteLLM can be moved to another. `plan`: all of it together, or an `error`.
//! - `warnings` and `unknown_keys`: what is told besides.
//! - `sidecar`, `variables` and `patch`: what is written; `marks`: into pods that are not injected. `reserved`: the names that are used for it.
//! - `settings` and `resources`: what every sidecar gets, checked when the operator starts. `security_context`.
//! - `namespace_limits`: what ResourceQuotas and LimitRanges demand of it.
//!
//! All of them look through a previous injection (`previous`), so that injecting twice is injecting once.
//! `docs/injection.md` tells users about it.

pub mod annotations;
mod audit_output;
mod client_addresses;
mod command_line;
mod config;
mod decision;
mod environment;
mod environment_entries;
mod environment_source;
mod error;
mod exec_wrapper;
mod image;
mod keepalive;
mod later_webhooks;
pub mod lenient_settings;
mod listen_address;
mod litellm_options;
mod marks;
mod mesh;
mod namespace_limits;
mod no_proxy;
mod operations;
mod options;
mod overlay_folder;
mod patch;
mod path;
mod plan;
mod ports;
mod previous;
mod relocation;
mod reserved;
mod resources;
mod review;
mod role;
mod script_variables;
mod security_context;
mod server_variables;
mod settings;
mod shell_script;
mod sidecar;
mod target;
mod trusted_proxies;
mod unknown_keys;
mod variables;
mod warning;
mod warnings;
mod wrapper;
mod written_files;

pub use decision::{Decision, SkipReason, decide};
pub use error::{InjectionError, NOT_INJECTED_REASONS};
pub use namespace_limits::NamespaceLimits;
pub use reserved::SIDECAR;
pub use review::{AUDIT_KEY, review};
pub use settings::{OperatorEndpoint, RoutesInPod, Settings, SettingsError, unguessable_name};
pub use warning::{WARNING_REASONS, Warning};
