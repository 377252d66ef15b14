//! HTTP authentication as OAuth uses it: what a server's challenge says ([`Challenge`]), the proof of
//! possession that a request carries ([`ProofKey`]), the time that the server will take it by ([`ClockOffset`]), and the JWS and
//! PEM that both sides of a token need ([`jws`], [`pem`]), and which authorities they can verify a server by
//! ([`authority_key`]), and at which addresses ([`address_scope`]). Small, so that the sidecar can have it without an HTTP client.

pub mod address_scope;
pub mod authority_key;
mod challenge;
pub mod clock_offset;
mod dpop;
pub mod jws;
pub mod pem;

pub use challenge::{Challenge, valid_scopes};
pub use clock_offset::ClockOffset;
pub use dpop::{ProofKey, ProofKeyError};
