//! Whether an access token fits what it was asked for, as far as it can be read: a JWT (RFC 9068) is compared, an
//! opaque token is taken as it is. The signature is the MCP server's to verify.

/// What a token is compared with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenCheck {
    pub mode: Mode,
    /// Values of `aud` that fit besides `resource` and `audience`.
    pub accepted_audiences: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// A token that does not fit is an error.
    #[default]
    Enforce,
    /// It is issued, and the mismatch told with it.
    Report,
    Off,
}

/// A claim that does not fit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("its claim {claim} is {found}, expected {expected}")]
pub struct Mismatch {
    pub claim: &'static str,
    pub expected: String,
    pub found: String,
}
