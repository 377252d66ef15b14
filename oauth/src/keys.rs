//! Private keys that sign JWTs: from PEM or JWK text to a signature (RFC 7515, RFC 7518, RFC 8037).

/// A private key with the algorithm that it signs by and the `kid` that it is announced by.
#[derive(Clone, Debug)]
pub struct SigningKey {}
