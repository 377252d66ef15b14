//! Error answers of an authorization server: the codes of the standards, and what to check for each.

use std::fmt;

use oauth2::basic::BasicErrorResponseType;

use crate::retry_after::RetryAfter;

/// An error answer of the authorization server (RFC 6749 section 5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErrorResponse {
    pub code: ErrorCode,
    pub description: Option<String>,
    pub status: u16,
    pub retry_after: Option<RetryAfter>,
    /// What to check first, where the request that was refused says more than the code.
    pub advice: Option<Advice>,
}

/// What a request that was refused says of the likeliest cause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advice {
    /// Client identifier or secret hold characters that RFC 6749 section 2.3.1 has encoded in the
    /// Authorization header, and that some servers do not decode.
    EncodedBasic,
    /// This client signed an assertion for this kind of audience.
    AssertionAudience,
    /// The scopes were those that the MCP server's challenge names.
    ScopesOfChallenge,
    /// The scopes were those that the MCP server's metadata name.
    ScopesOfMetadata,
    /// The assertion was the one of a Secret.
    AssertionOfSecret,
    /// The grant was client_credentials, which has no assertion.
    ClientWithoutAssertion,
    /// The provider is known by its words, and this is what to check there.
    OfProvider(&'static str),
}

/// An OAuth error code: those of RFC 6749 section 5.2 and any other, and those of RFC 6749 section 4.1.2.1,
/// RFC 7009 section 2.2.1, RFC 8707 section 2 and RFC 9449 section 12.2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// As `Extension` only what no other variant names, in the characters of RFC 6749, and not many of them.
    Basic(BasicErrorResponseType),
    InvalidTarget,
    AccessDenied,
    ServerError,
    TemporarilyUnavailable,
    UnsupportedTokenType,
    UseDpopNonce,
    InvalidDpopProof,
}

impl ErrorCode {
    /// `None`: not a code of the standards.
    pub(crate) fn from_standard(code: &str) -> Option<Self> {
        use BasicErrorResponseType as Basic;
        Some(match code {
            "invalid_request" => Self::Basic(Basic::InvalidRequest),
            "invalid_client" => Self::Basic(Basic::InvalidClient),
            "invalid_grant" => Self::Basic(Basic::InvalidGrant),
            "invalid_scope" => Self::Basic(Basic::InvalidScope),
            "unauthorized_client" => Self::Basic(Basic::UnauthorizedClient),
            "unsupported_grant_type" => Self::Basic(Basic::UnsupportedGrantType),
            "invalid_target" => Self::InvalidTarget,
            "access_denied" => Self::AccessDenied,
            "server_error" => Self::ServerError,
            "temporarily_unavailable" => Self::TemporarilyUnavailable,
            "unsupported_token_type" => Self::UnsupportedTokenType,
            "use_dpop_nonce" => Self::UseDpopNonce,
            "invalid_dpop_proof" => Self::InvalidDpopProof,
            _ => return None,
        })
    }

    pub(crate) fn extension(code: impl Into<String>) -> Self {
        Self::Basic(BasicErrorResponseType::Extension(code.into()))
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Basic(BasicErrorResponseType::Extension(code)) => code,
            standard => standard.reason(),
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        use BasicErrorResponseType as Basic;
        match self {
            Self::Basic(Basic::InvalidRequest) => "invalid_request",
            Self::Basic(Basic::InvalidClient) => "invalid_client",
            Self::Basic(Basic::InvalidGrant) => "invalid_grant",
            Self::Basic(Basic::InvalidScope) => "invalid_scope",
            Self::Basic(Basic::UnauthorizedClient) => "unauthorized_client",
            Self::Basic(Basic::UnsupportedGrantType) => "unsupported_grant_type",
            Self::Basic(Basic::Extension(_)) => "other_error",
            Self::InvalidTarget => "invalid_target",
            Self::AccessDenied => "access_denied",
            Self::ServerError => "server_error",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::UnsupportedTokenType => "unsupported_token_type",
            Self::UseDpopNonce => "use_dpop_nonce",
            Self::InvalidDpopProof => "invalid_dpop_proof",
        }
    }

    pub(super) fn hint(&self) -> &'static str {
        use BasicErrorResponseType as Basic;
        match self {
            Self::Basic(Basic::InvalidRequest) => {
                "check scopes, audience, resource and extraParameters, and that this client may use the grant"
            }
            Self::Basic(Basic::InvalidClient) => {
                "check clientId and the client secret, key, certificate or assertion (its issuer, subject \
                 and audience), and that the client may authenticate by the configured method"
            }
            Self::Basic(Basic::InvalidScope) => "check that scopes names only what this client may have",
            Self::InvalidTarget => {
                "check that the authorization server knows this resource; an empty resource sends none"
            }
            Self::Basic(Basic::UnauthorizedClient) | Self::Basic(Basic::UnsupportedGrantType) => {
                "allow this client the configured grant (client_credentials, jwt-bearer or token-exchange) \
                 at the authorization server"
            }
            Self::Basic(Basic::InvalidGrant) => {
                "check the assertion or subject token (its issuer, audience and expiry), and this client's \
                 registration at the authorization server"
            }
            Self::UseDpopNonce => {
                "it demands DPoP with a nonce: set tokenType: DPoP; if it is set, check the authorization \
                 server's health"
            }
            Self::InvalidDpopProof => {
                "check the clock, and that proxies leave the token endpoint's URL as the authorization \
                 server knows it"
            }
            Self::UnsupportedTokenType | Self::AccessDenied | Self::Basic(Basic::Extension(_)) => {
                "check this client's registration at the authorization server"
            }
            Self::ServerError | Self::TemporarilyUnavailable => "check the authorization server's health",
        }
    }
}

impl Advice {
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::OfProvider(hint) => hint,
            Self::EncodedBasic => {
                "check clientId and the client secret; one of them holds characters that this method sends \
                 encoded, as RFC 6749 demands, and that some servers do not decode: try \
                 clientAuthentication.method: ClientSecretPost"
            }
            Self::AssertionAudience => {
                "check that the authorization server knows this client's key, its kid and algorithm, and \
                 the assertion's audience: servers want their issuer, their token endpoint, or a value of \
                 their own, which clientAuthentication.privateKeyJwt.audience states"
            }
            Self::ScopesOfChallenge => {
                "spec.oauth2.scopes is empty, so the scopes requested are those that the MCP server's 401 \
                 challenge names: state in scopes what this client may have"
            }
            Self::ScopesOfMetadata => {
                "spec.oauth2.scopes is empty, so the scopes requested are those that the MCP server's \
                 metadata name (scopes_supported): state in scopes what this client may have"
            }
            Self::ClientWithoutAssertion => {
                "client_credentials has no grant of its own that could be invalid: check that scopes names only what \
                 this client may have, and this client's registration (its grants, and the user that it acts as)"
            }
            Self::AssertionOfSecret => {
                "check the assertion in jwtBearer.assertionRef (its issuer, audience and expiry), and whether \
                 it was used before: some servers take each assertion once; another one in that Secret is \
                 tried at once"
            }
        }
    }
}

impl ErrorResponse {
    /// What to check.
    pub(super) fn hint(&self) -> &'static str {
        match self.advice {
            Some(advice) => advice.hint(),
            // Of a fault of its own a server says so by its status too.
            None if self.code == ErrorCode::ServerError && self.status < 500 => {
                "check this client's registration at the authorization server, and what it requests: by its status \
                 the answer speaks of the request; the server's log says more"
            }
            None if self.is_of_client() => ErrorCode::Basic(BasicErrorResponseType::InvalidClient).hint(),
            None => self.code.hint(),
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code.as_str())?;
        match &self.description {
            Some(description) => write!(formatter, " ({description})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_is_read_as_it_is_written() {
        for code in [
            "invalid_request",
            "invalid_client",
            "invalid_grant",
            "invalid_scope",
            "invalid_target",
            "unauthorized_client",
            "unsupported_grant_type",
            "access_denied",
            "server_error",
            "temporarily_unavailable",
            "unsupported_token_type",
            "use_dpop_nonce",
            "invalid_dpop_proof",
        ] {
            assert_eq!(ErrorCode::from_standard(code).unwrap().as_str(), code);
            assert_eq!(ErrorCode::from_standard(code).unwrap().reason(), code);
        }
    }
}
