//! HTTP authentication as OAuth uses it: what a server's challenge says ([`Challenge`]), the proof of
//! possession that a request carries ([`ProofKey`]), and the JWS and PEM that both sides of a token need
//! ([`jws`], [`pem`]). Small, so that the sidecar can have it without an HTTP client.

mod challenge;
mod dpop;
pub mod jws;
pub mod pem;

pub use challenge::{Challenge, valid_scopes};
pub use dpop::{ProofKey, ProofKeyError};
