//! Certificates: the operator's own authority and its serving certificate, in one Secret that all replicas
//! share.
//!
//! - `fingerprint`: the key of fingerprints in audit logs, which lies in the same Secret.
//! - `check`: whether certificates and keys fit one another.
//! - `issue`: makes them, and decides when one is due for renewal.
//! - `secret`: keeps them in the Secret.
//! - `serving`: what the TLS listener presents.
//! - `webhook`: how the API server comes to trust it.

mod check;
mod fingerprint;
mod issue;
mod secret;
mod serving;
mod webhook;

pub use check::{certificate_expiry, certificate_validity};
pub use secret::Config;
pub use serving::Certificates;
pub use webhook::keep_webhook_ca_bundle;
