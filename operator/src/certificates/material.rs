//! Certificates and keys as they are stored together.

/// Everything in the Secret, in PEM.
#[derive(Clone, Eq, PartialEq)]
pub struct CertificateMaterial {
    /// The authority that signs, and after it earlier ones, which clients trust as well.
    pub authority: String,
    /// Of the first authority.
    pub authority_key: String,
    pub serving: String,
    pub serving_key: String,
    /// By which sidecars fingerprint values in their audit logs. Here since it is kept in the same way.
    pub fingerprint_key: String,
}
