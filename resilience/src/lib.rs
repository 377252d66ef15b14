//! What keeps a server that is slow or down from being asked too often, for operator and sidecar alike:
//! exponential backoff ([`exponential`]), and a bounded cache with at most one request under way for each key
//! ([`single_flight`]).

mod backoff;
pub mod single_flight;

pub use backoff::exponential;
