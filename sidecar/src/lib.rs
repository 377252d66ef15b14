//! The sidecar beside LiteLLM. A user's request takes two hops through its data path:
//!
//! [`inbound`]: on the port LiteLLM used to own. Seals the allow-listed cookies and headers of a request into one
//! opaque header ([`context`]) and passes the request on to LiteLLM.
//! [`outbound`]: on loopback, for LiteLLM's MCP client. Opens that header, authenticates the request to the MCP
//! server it names ([`routes`], or for a user [`exchange`]) and passes it on.
//!
//! [`listen`] runs both on worker threads of their own; [`respond`] is where errors become answers.
//!
//! The other half controls: it learns routes and credentials from the operator ([`follow`]), renders LiteLLM's
//! configuration ([`overlay`]), looks after LiteLLM ([`litellm`], [`listening`]) and answers Kubernetes
//! ([`health`], [`drain`]). [`control`] decides what follows from what, and [`serve`] puts it all together from
//! [`args`].

pub mod args;
mod awaited;
mod body;
mod clock;
pub mod context;
pub mod control;
mod dial;
pub mod drain;
pub mod exchange;
pub mod follow;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod health;
mod hop_by_hop;
pub mod inbound;
pub mod listen;
pub mod listening;
pub mod litellm;
pub mod metrics;
pub mod outbound;
pub mod overlay;
mod pool;
pub mod respond;
pub mod routes;
pub mod serve;
mod trailers;
mod trust;
mod upstream;
