//! The data path over real sockets on loopback, between scripted clients, a scripted LiteLLM and scripted MCP
//! servers.

// Clippy knows only functions marked as tests for tests; what they share is one as well.
#![allow(clippy::unwrap_used)]

mod addresses;
mod audit;
mod callers;
mod client_certificate;
mod connections;
mod context;
mod context_checks;
mod declined;
mod evasions;
mod exchange;
mod guard;
mod h2c;
mod host;
mod http2;
mod http2_frames;
mod inbound;
mod interim;
mod litellm;
mod mcp;
mod metrics;
mod otlp;
mod outbound;
mod past_sidecar;
mod proofs;
mod reachability;
mod refusals;
mod refused_sessions;
mod refused_users;
mod scene;
mod server_headers;
mod streams;
mod tokens;
mod users;
mod websockets;
mod wires;
