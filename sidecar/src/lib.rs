//! The data path of the sidecar. A user's request takes two hops through it:
//!
//! [`inbound`]: on the port LiteLLM used to own. Seals the allow-listed cookies and headers of a request into one
//! opaque header ([`context`]) and passes the request on to LiteLLM.
//! [`outbound`]: on loopback, for LiteLLM's MCP client. Opens that header, authenticates the request to the MCP
//! server it names ([`routes`]) and passes it on.
//!
//! [`listen`] runs both on worker threads of their own; [`respond`] is where errors become answers.

mod body;
mod clock;
pub mod context;
mod dial;
pub mod drain;
mod hop_by_hop;
pub mod inbound;
pub mod listen;
pub mod metrics;
pub mod outbound;
mod pool;
pub mod respond;
pub mod routes;
mod trust;
mod upstream;
