//! `WWW-Authenticate` (RFC 9110 section 11.6.1): the challenges of a resource server, read generously.

use http::HeaderMap;

/// What a protected resource says of the token it wants (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9728
/// section 5.1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Challenge {
    /// Error code, such as `invalid_token`, `insufficient_scope`, `use_dpop_nonce`.
    pub error: Option<String>,
    /// Scopes demanded.
    pub scopes: Vec<String>,
    /// URL of the protected resource's metadata.
    pub resource_metadata: Option<String>,
}

impl Challenge {
    /// The first challenge of the schemes Bearer and DPoP; nothing where there is none.
    pub fn of(_headers: &HeaderMap) -> Option<Self> {
        todo!()
    }
}
