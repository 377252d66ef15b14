//! Certificates: the operator's own authority and its serving certificate, in one Secret that all replicas
//! share; or a serving certificate that somebody else keeps, such as cert-manager.
//!
//! - `fingerprint`: the key of fingerprints in audit logs, which lies in the same Secret.
//! - `check`: whether certificates and keys fit one another.
//! - `issue`: makes them, and decides when one is due for renewal.
//! - `secret`: keeps them in the Secret.
//! - `folder`: reads those that somebody else keeps.
//! - `serving`: what the TLS listener presents.
//! - `webhook`: how the API server comes to trust it.

mod check;
mod fingerprint;
mod folder;
mod issue;
mod material;
mod secret;
mod serving;
mod webhook;

pub use check::certificate_expiry;
pub use secret::SecretName;
pub use serving::{Certificates, Config, Source};
pub use webhook::{await_webhook_ca_bundle, keep_webhook_ca_bundle};
