//! The operator's own certificate authority and serving certificate, kept in one Secret that all replicas
//! share: [`issue`] makes and judges them, [`keep`] keeps them fresh, in the Secret, in the TLS listener and in
//! the webhook configuration.

mod issue;
mod keep;

pub use keep::{Certificates, Config, keep_webhook_trust};
