//! The data path: the two hops of a user's request, and what they share.

pub mod audit;
pub mod clock;
pub mod error;
pub mod fingerprint;
mod header_denylist;
mod hex;
pub mod inbound;
mod jwt;
pub mod metrics;
pub mod otlp;
pub mod outbound;
pub mod request_id;
pub mod respond;
pub mod response_body;
pub mod routes;
pub mod trace_context;
pub mod user_context;
mod user_problem;
