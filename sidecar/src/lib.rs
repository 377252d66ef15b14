//! The sidecar beside LiteLLM, room by room:
//!
//! - [`server`]: accepts connections on worker threads of its own and hands their requests to the data path.
//! - [`proxy`]: the data path, two hops of a user's request. [`inbound`](proxy::inbound), on the port LiteLLM
//!   used to own, seals the allow-listed cookies and headers of a request into one opaque header
//!   ([`user_context`](proxy::user_context)) and passes the request on to LiteLLM.
//!   [`outbound`](proxy::outbound), on loopback for LiteLLM's MCP client, opens that header, authenticates
//!   the request to the MCP server it names ([`routes`](proxy::routes)) and passes it on.
//! - `http`: pooled connections to LiteLLM and MCP servers.
//! - [`control`]: learns routes and credentials from the operator, writes LiteLLM's configuration, and
//!   answers Kubernetes.
//!
//! [`run`] puts it all together, and [`serve`] runs it in a pod, from [`args`].

pub mod args;
pub mod control;
mod http;
pub mod log;
// Test code, which needs items that are private to this crate.
#[cfg(any(test, fuzzing))]
#[path = "../tests/promises/data_path.rs"]
pub mod promises;
pub mod proxy;
pub mod run;
pub mod serve;
pub mod server;
