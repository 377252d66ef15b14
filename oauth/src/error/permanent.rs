//! Permanent errors: failures that last until somebody changes something, so that asking again soon only costs
//! requests, and tokens that are thrown away.

use oauth2::basic::BasicErrorResponseType as Basic;

use super::{Error, ErrorCode, ErrorResponse};
use crate::transport::body_shape::BodyShape;
use crate::transport::connect_error::ConnectError;

impl Error {
    /// Whether the same request would most likely fail in the same way: what a server's operator, the resource
    /// or a Secret has to change. Everything else may pass by itself, and so may whatever a server says when to
    /// try again after.
    pub fn is_permanent(&self) -> bool {
        if self.retry_after().is_some() {
            return false;
        }
        match self {
            Self::InvalidUrl { .. }
            | Self::InvalidRevocationUrl { .. }
            | Self::NoClientId
            | Self::InvalidCertificate { .. }
            | Self::CertificateExpired { .. }
            | Self::AssertionExpired { .. }
            | Self::AssertionUsed { .. }
            | Self::Unsigned
            | Self::InvalidCaBundle { .. }
            | Self::ReservedParameter { .. }
            | Self::NoTrustRoots
            | Self::Redirected { .. }
            | Self::TooLarge { .. }
            | Self::NoAccessToken { .. }
            | Self::NoInstallationToken { .. }
            | Self::Installation(_)
            | Self::UnsupportedTokenType { .. }
            | Self::ExpiredOnArrival { .. }
            | Self::NoIdJag
            | Self::TokenMismatch(_) => true,
            // Of an empty answer nobody knows what was meant.
            Self::NotJson { shape, .. } => *shape != BodyShape::Empty,
            Self::IdentityProvider(error) => error.is_permanent(),
            Self::Rejected(rejection) | Self::BothSecretsRefused(rejection) => is_permanent(rejection),
            Self::HttpStatus { status, .. } => is_permanent_status(*status),
            Self::Connect(fault) => match fault {
                ConnectError::Tls(_)
                | ConnectError::Forbidden(_)
                | ConnectError::ForbiddenByPolicy(_)
                | ConnectError::ClientCertificate(_)
                | ConnectError::ProxyAuthentication => true,
                ConnectError::Dns | ConnectError::Refused | ConnectError::Proxy | ConnectError::Other => {
                    false
                }
            },
            Self::Discovery(error) => error.is_permanent(),
            Self::NoAssertion { .. }
            | Self::Timeout { .. }
            | Self::RateLimited { .. }
            | Self::TooManyInLine { .. }
            | Self::Interrupted
            | Self::TooManyAtOnce => false,
        }
    }
}

fn is_permanent(rejection: &ErrorResponse) -> bool {
    match &rejection.code {
        ErrorCode::TemporarilyUnavailable => false,
        // ServiceNow and Zitadel say so of what is wrong with the request, as its status shows.
        ErrorCode::ServerError => is_permanent_status(rejection.status),
        // Codes that no standard knows say less than the status, such as `slow_down` with 429.
        ErrorCode::Basic(Basic::Extension(_)) => {
            rejection.status < 400 || is_permanent_status(rejection.status)
        }
        _ => rejection.status < 500 && rejection.status != 429,
    }
}

/// A request that is refused, but not for its time (408, 425), its number (423, 429) or the connection (421).
fn is_permanent_status(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 421 | 423 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClaimMismatchError, RetryAfter};

    fn rejected(code: &str, status: u16, retry_after: Option<&str>) -> Error {
        Error::Rejected(ErrorResponse {
            code: ErrorCode::from_standard(code).unwrap_or_else(|| ErrorCode::extension(code)),
            description: None,
            status,
            retry_after: retry_after.and_then(RetryAfter::parse),
            advice: None,
        })
    }

    fn status(status: u16) -> Error {
        Error::HttpStatus {
            status,
            retry_after: None,
        }
    }

    fn not_json(shape: BodyShape) -> Error {
        Error::NotJson {
            shape,
            content_type: None,
        }
    }

    #[test]
    fn what_the_resource_or_the_server_s_settings_have_to_change_is_permanent() {
        let mismatch = ClaimMismatchError {
            claim: "aud".into(),
            expected: String::new(),
            found: String::new(),
        };
        for error in [
            rejected("invalid_client", 401, None),
            rejected("unauthorized_client", 400, None),
            rejected("invalid_scope", 400, None),
            rejected("consent_required", 400, None),
            rejected("invalid_grant", 200, None),
            rejected("server_error", 401, None),
            status(404),
            Error::TokenMismatch(mismatch),
            Error::AssertionUsed {
                field: "jwtBearer.assertionRef",
            },
            Error::Connect(ConnectError::Tls(None)),
            not_json(BodyShape::Html),
        ] {
            assert!(error.is_permanent(), "{error}");
        }
    }

    #[test]
    fn what_may_pass_by_itself_is_not() {
        for error in [
            rejected("temporarily_unavailable", 400, None),
            rejected("server_error", 500, None),
            rejected("invalid_request", 503, None),
            rejected("slow_down", 429, None),
            rejected("invalid_client", 401, Some("30")),
            status(429),
            status(500),
            status(503),
            Error::Interrupted,
            not_json(BodyShape::Empty),
            Error::Connect(ConnectError::Dns),
            Error::Connect(ConnectError::Refused),
        ] {
            assert!(!error.is_permanent(), "{error}");
        }
    }
}
