//! The two ways of presenting an access token.

/// How a token is presented.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TokenType {
    /// RFC 6750.
    #[default]
    Bearer,
    /// RFC 9449.
    DPoP,
}
