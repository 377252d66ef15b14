//! The data path over real sockets on loopback, between scripted clients, a scripted LiteLLM and scripted MCP
//! servers.

mod connections;
mod inbound;
mod outbound;
mod refusals;
mod scene;
mod streams;
mod users;
