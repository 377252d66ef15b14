//! The data path over real sockets on loopback, between scripted clients, a scripted LiteLLM and scripted MCP
//! servers.

// Clippy knows only functions marked as tests for tests; what they share is one as well.
#![allow(clippy::unwrap_used)]

mod connections;
mod inbound;
mod outbound;
mod refusals;
mod scene;
mod streams;
mod users;
