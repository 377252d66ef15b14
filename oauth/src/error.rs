//! Errors of a token request, in three forms: a closed reason for metrics, a code for the status, and a
//! message that says what to check. What a server said is in here only as
//! [`Redactor`](crate::redact::Redactor) let it through.

pub(crate) mod installation;
mod permanent;
mod provider_errors;
mod response;

use std::borrow::Cow;
use std::time::Duration;

use jiff::{Timestamp, Unit};

use crate::discovery::DiscoveryError;
use crate::retry_after::RetryAfter;
use crate::token_check::mismatch::ClaimMismatchError;
use crate::token_type::TokenType;
use crate::transport::body_shape::BodyShape;
use crate::transport::connect_error::{ConnectError, endpoint_fields};
pub use installation::{InstallationError, InstallationProblem};
pub(crate) use provider_errors::RequestedGrant;
pub use response::{Advice, ErrorCode, ErrorResponse};

/// A failed token request, or a registration that none can be made from.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("tokenUrl {problem}")]
    InvalidUrl { problem: &'static str },
    #[error("revocationUrl {problem}")]
    InvalidRevocationUrl { problem: &'static str },
    #[error("clientId is missing, which this client authentication needs")]
    NoClientId,
    #[error("clientAuthentication.certificateRef {problem}")]
    InvalidCertificate { problem: &'static str },
    #[error("clientAuthentication.certificateRef holds a certificate that expired at {}", whole_seconds(*at))]
    CertificateExpired { at: Timestamp },
    #[error("there is no assertion to ask with: {problem}")]
    NoAssertion { problem: String },
    #[error("the assertion in {field} expired at {}", whole_seconds(*at))]
    AssertionExpired { field: &'static str, at: Timestamp },
    /// It brought a token before.
    #[error("the authorization server takes the assertion in {field} once, and it brought a token before")]
    AssertionUsed { field: &'static str },
    #[error("the client assertion could not be signed")]
    Unsigned,
    #[error("caBundle {problem}")]
    InvalidCaBundle { problem: Cow<'static, str> },
    #[error("extraParameters holds {name:?}, which has a field of its own")]
    ReservedParameter { name: String },
    #[error("the system has no certificate authorities to verify the token endpoint with")]
    NoTrustRoots,
    #[error("the token endpoint gave no complete answer within {} s", limit.as_secs_f64())]
    Timeout { limit: Duration },
    #[error("no connection to the token endpoint: {0}")]
    Connect(ConnectError),
    /// No request was made.
    #[error(
        "the authorization server asked to be left alone for a while, by its answer to another request of this client"
    )]
    RateLimited { retry_after: RetryAfter },
    /// No request was made.
    #[error(
        "no request was made within {} s: too many others to this authorization server were before it",
        waited.as_secs()
    )]
    TooManyInLine { waited: Duration },
    #[error("the token endpoint ended the connection before its answer was complete")]
    Interrupted,
    #[error("the authorization server answered {0}")]
    Rejected(ErrorResponse),
    /// With the answer to the first of the two.
    #[error("the authorization server answered {0} to both client secrets")]
    BothSecretsRefused(ErrorResponse),
    #[error("GitHub answered with {0}")]
    Installation(InstallationError),
    #[error("GitHub's answer holds no usable token: {problem}")]
    NoInstallationToken { problem: &'static str },
    #[error("the token endpoint answered with HTTP status {status}")]
    HttpStatus {
        status: u16,
        retry_after: Option<RetryAfter>,
    },
    #[error("the token endpoint redirects{}", with_host(host))]
    Redirected { status: u16, host: Option<String> },
    #[error("the token endpoint's answer is longer than {limit} bytes")]
    TooLarge { limit: usize },
    #[error(
        "the token endpoint's answer is {shape}{} instead of JSON",
        with_type(content_type)
    )]
    NotJson {
        shape: BodyShape,
        content_type: Option<String>,
    },
    #[error("the token endpoint's answer holds no usable access_token: {problem}")]
    NoAccessToken { problem: &'static str },
    #[error(
        "the token endpoint issued a token{}, which is not a {} token",
        with_type(token_type),
        kind(*expected)
    )]
    UnsupportedTokenType {
        token_type: Option<String>,
        expected: TokenType,
    },
    #[error("the token was over when it arrived: it lives for {expires_in} s")]
    ExpiredOnArrival { expires_in: i64 },
    #[error("too many users' tokens are being asked for at once")]
    TooManyAtOnce,
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("the token does not fit: {0}")]
    TokenMismatch(ClaimMismatchError),
    /// In the first of the two requests of an identity assertion authorization grant.
    #[error("at the identity provider: {0}")]
    IdentityProvider(Box<Error>),
    #[error("the identity provider issued no identity assertion authorization grant")]
    NoIdJag,
}

impl Error {
    /// Closed set: error codes of the standards as they are, `other_error` for any other, else the kind of
    /// failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "InvalidUrl",
            Self::InvalidRevocationUrl { .. } => "InvalidRevocationUrl",
            Self::NoClientId => "NoClientId",
            Self::InvalidCertificate { .. } => "InvalidCertificate",
            Self::CertificateExpired { .. } => "CertificateExpired",
            Self::NoAssertion { .. } => "NoAssertion",
            Self::AssertionExpired { .. } => "AssertionExpired",
            Self::AssertionUsed { .. } => "AssertionUsed",
            Self::Unsigned => "Unsigned",
            Self::InvalidCaBundle { .. } => "InvalidCaBundle",
            Self::ReservedParameter { .. } => "ReservedParameter",
            Self::NoTrustRoots => "NoTrustRoots",
            Self::Timeout { .. } => "Timeout",
            Self::Connect(ConnectError::Dns) => "ConnectDns",
            Self::Connect(ConnectError::Refused) => "ConnectRefused",
            Self::Connect(ConnectError::Tls(_)) => "ConnectTls",
            Self::Connect(ConnectError::Forbidden(_) | ConnectError::ForbiddenByPolicy(_)) => {
                "ConnectForbidden"
            }
            Self::Connect(ConnectError::ClientCertificate(_)) => "ConnectClientCertificate",
            Self::Connect(ConnectError::Proxy) => "ConnectProxy",
            Self::Connect(ConnectError::ProxyAuthentication) => "ConnectProxyAuthentication",
            Self::Connect(ConnectError::Other) => "Connect",
            Self::RateLimited { .. } => "RateLimited",
            Self::TooManyInLine { .. } => "TooManyInLine",
            Self::Interrupted => "Interrupted",
            Self::Rejected(rejection) | Self::BothSecretsRefused(rejection) => rejection.code.reason(),
            Self::Installation(error) => error.problem.reason(),
            Self::NoInstallationToken { .. } => "NoInstallationToken",
            Self::HttpStatus { .. } => "HttpStatus",
            Self::Redirected { .. } => "Redirected",
            Self::TooLarge { .. } => "TooLarge",
            Self::NotJson { .. } => "NotJson",
            Self::NoAccessToken { .. } => "NoAccessToken",
            Self::UnsupportedTokenType { .. } => "UnsupportedTokenType",
            Self::ExpiredOnArrival { .. } => "ExpiredOnArrival",
            Self::TooManyAtOnce => "TooManyAtOnce",
            Self::Discovery(error) => error.reason(),
            Self::TokenMismatch(_) => "TokenMismatch",
            Self::IdentityProvider(error) => error.reason(),
            Self::NoIdJag => "NoIdJag",
        }
    }

    /// The server's own error code where it sent one, else the reason.
    pub fn code(&self) -> &str {
        match self {
            Self::Rejected(rejection) | Self::BothSecretsRefused(rejection) => rejection.code.as_str(),
            Self::IdentityProvider(error) => error.code(),
            other => other.reason(),
        }
    }

    /// What happened and what to check, for people. Names the resource's fields.
    pub fn message(&self) -> String {
        format!("{self}: {}", self.hint())
    }

    /// What to check.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => {
                "set it to the token endpoint, such as https://auth.example.com/oauth2/token"
            }
            Self::InvalidRevocationUrl { .. } => {
                "set it to the revocation endpoint, such as https://auth.example.com/oauth2/revoke, or \
                 leave it out"
            }
            Self::NoClientId => "set clientId or clientIdSecretRef",
            Self::InvalidCertificate { .. } => {
                "it must name a Secret of type kubernetes.io/tls: in tls.crt the certificate and those that \
                 lead to its authority, in tls.key its key, unencrypted, both in PEM"
            }
            Self::CertificateExpired { .. } => "renew the certificate in that Secret, and check the clock",
            Self::NoAssertion { .. } => "check what the assertion comes from",
            Self::AssertionExpired { .. } => {
                "another one is waited for: put it into that Secret, and it is used at once; check the clock \
                 too"
            }
            Self::AssertionUsed { .. } => {
                "another one is waited for: put it into that Secret, and it is used at once"
            }
            Self::Unsigned => "check the key in clientAuthentication.privateKeyJwt.keyRef",
            Self::InvalidCaBundle { .. } => "it must hold one or more PEM certificates (BEGIN CERTIFICATE)",
            Self::ReservedParameter { .. } => "use that field, or remove the parameter",
            Self::NoTrustRoots => "install CA certificates, or set caBundle",
            Self::Timeout { .. } => concat!(
                "check ",
                endpoint_fields!(),
                ", network policies and the authorization server's health"
            ),
            Self::Connect(fault) => fault.hint(),
            Self::RateLimited { .. } => {
                "requests go on when that time is over; if it comes often, raise its rate limit"
            }
            Self::TooManyInLine { .. } => {
                "it is tried again by itself; resources of one namespace that have the same client, scopes and audience share \
                 one token"
            }
            Self::Interrupted => "check the authorization server's health and the proxies before it",
            Self::Rejected(rejection) => rejection.hint(),
            Self::BothSecretsRefused(rejection) => match rejection.advice {
                Some(Advice::OfProvider(hint)) => hint,
                _ => {
                    "both were refused, that of clientSecretRef and that of alternateClientSecretRef: check \
                     clientId and the client secrets, and that the client may authenticate by the configured \
                     method"
                }
            },
            Self::Installation(error) => error.problem.hint(),
            Self::NoInstallationToken { .. } => {
                "check that githubApp.apiUrl is the base URL of GitHub's REST API"
            }
            Self::HttpStatus { status, .. } => status_hint(*status),
            Self::Redirected { .. } => {
                "redirects are not followed; set tokenUrl (apiUrl of a GitHub App) to the final address, or where that \
                 was discovered let the authorization server's metadata name it"
            }
            Self::TooLarge { .. } => {
                concat!("check that ", endpoint_fields!(), " leads to the endpoint itself")
            }
            Self::NotJson {
                shape: BodyShape::Compressed,
                ..
            } => {
                "requests ask for answers as they are (Accept-Encoding: identity): let the server, or a proxy before it, keep to that"
            }
            Self::NotJson { .. } => {
                concat!(
                    "check that ",
                    endpoint_fields!(),
                    " leads to the token endpoint itself"
                )
            }
            Self::NoAccessToken { .. } => concat!(
                "check that ",
                endpoint_fields!(),
                " leads to a token endpoint, and what tokens it issues to this client"
            ),
            Self::UnsupportedTokenType {
                expected: TokenType::Bearer,
                ..
            } => "let the authorization server issue bearer tokens to this client",
            Self::UnsupportedTokenType {
                expected: TokenType::DPoP,
                ..
            } => {
                "let the authorization server bind this client's tokens by DPoP (RFC 9449), or set \
                 tokenType: Bearer"
            }
            Self::ExpiredOnArrival { .. } => "raise the token lifetime at the authorization server",
            Self::TooManyAtOnce => "check the authorization server's health, and try again",
            Self::Discovery(error) => error.hint(),
            Self::TokenMismatch(mismatch) => mismatch.hint(),
            Self::IdentityProvider(error) => error.identity_provider_hint(),
            Self::NoIdJag => {
                "let it issue such grants to this client (requested_token_type \
                 urn:ietf:params:oauth:token-type:id-jag) for the authorization server that tokenExchange.audience, \
                 or else its issuer, names"
            }
        }
    }

    /// What to check where the identity provider fails so: its settings are below `tokenExchange`.
    fn identity_provider_hint(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) if rejection.is_of_client() => {
                "check clientId and the secret or key of tokenExchange.identityProvider, and that the client may \
                 authenticate there by that method"
            }
            Self::Rejected(_) | Self::HttpStatus { status: 400, .. } => {
                "check that it lets this client exchange users' tokens for the authorization server that \
                 tokenExchange.audience, or else its issuer, names, and the subject token: its type \
                 (subjectTokenType), that it was issued to this client (aud), and its expiry"
            }
            other => other.hint(),
        }
    }

    /// Whether the administrator's policy is why.
    pub fn is_not_allowed(&self) -> bool {
        match self {
            Self::Connect(fault) => matches!(fault, ConnectError::ForbiddenByPolicy(_)),
            Self::Discovery(error) => error.is_not_allowed(),
            Self::IdentityProvider(error) => error.is_not_allowed(),
            _ => false,
        }
    }

    /// When the server wants to be asked again, if it says so.
    pub fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Rejected(rejection) | Self::BothSecretsRefused(rejection) => rejection.retry_after,
            Self::HttpStatus { retry_after, .. } => *retry_after,
            Self::Installation(error) => error.retry_after,
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::IdentityProvider(error) => error.retry_after(),
            _ => None,
        }
    }
}

fn kind(token_type: TokenType) -> &'static str {
    match token_type {
        TokenType::Bearer => "bearer",
        TokenType::DPoP => "DPoP",
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    at.round(Unit::Second).unwrap_or(at)
}

fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => concat!(
            "check clientId and the client secret, and that the endpoint may be called from here: it comes from ",
            endpoint_fields!()
        ),
        404 | 405 | 410 => concat!("check that ", endpoint_fields!(), " leads to the token endpoint"),
        429 => "the authorization server limits the rate of requests; they go on more slowly",
        500.. => "check the authorization server's health and the proxies before it",
        _ => concat!(
            "check ",
            endpoint_fields!(),
            " and this client's registration at the authorization server"
        ),
    }
}

fn with_host(host: &Option<String>) -> String {
    host.as_ref()
        .map(|host| format!(" to {host}"))
        .unwrap_or_default()
}

fn with_type(kind: &Option<String>) -> String {
    kind.as_ref()
        .map(|kind| format!(" of type {kind}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use oauth2::basic::BasicErrorResponseType;

    use super::*;

    fn rejected(code: &str, description: Option<&str>) -> Error {
        Error::Rejected(ErrorResponse {
            code: ErrorCode::from_standard(code).unwrap_or_else(|| ErrorCode::extension(code)),
            description: description.map(Into::into),
            status: 400,
            retry_after: None,
            advice: None,
        })
    }

    #[test]
    fn the_message_says_what_happened_and_what_to_check() {
        assert_eq!(
            rejected("invalid_client", Some("Unknown client")).message(),
            "the authorization server answered invalid_client (Unknown client): check clientId and the \
             client secret, key, certificate or assertion (its issuer, subject and audience), and that the \
             client may authenticate by the configured method"
        );
        let html = Error::NotJson {
            shape: BodyShape::Html,
            content_type: Some("text/html".into()),
        };
        assert_eq!(
            html.message(),
            "the token endpoint's answer is an HTML page of type text/html instead of JSON: check that tokenUrl (without \
             it issuer, provider or server.url; of a GitHub App apiUrl) leads to the token endpoint itself"
        );
    }

    /// A resource that states `issuer`, and a GitHub App, have no `tokenUrl`.
    #[test]
    fn what_any_endpoint_may_answer_names_each_field_that_it_may_come_from() {
        let status = |status| Error::HttpStatus {
            status,
            retry_after: None,
        };
        for error in [
            Error::NotJson {
                shape: BodyShape::Html,
                content_type: None,
            },
            Error::NoAccessToken {
                problem: "it is missing",
            },
            status(302),
            status(401),
            status(404),
            Error::Timeout {
                limit: Duration::from_secs(1),
            },
            Error::Connect(ConnectError::Refused),
            Error::Redirected {
                status: 302,
                host: None,
            },
            Error::TooLarge { limit: 1 },
        ] {
            let message = error.message();
            assert!(
                message
                    .contains("tokenUrl (without it issuer, provider or server.url; of a GitHub App apiUrl)")
                    || matches!(error, Error::Redirected { .. }) && message.contains("discovered"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_client_that_is_not_believed_is_told_so_whatever_the_code() {
        let error = |status| {
            Error::Rejected(ErrorResponse {
                code: ErrorCode::Basic(BasicErrorResponseType::UnauthorizedClient),
                description: None,
                status,
                retry_after: None,
                advice: None,
            })
        };
        assert!(error(401).hint().contains("the client secret"));
        assert!(error(400).hint().contains("grant"));
    }

    #[test]
    fn what_is_not_allowed_at_the_identity_provider_is_not_allowed() {
        let refused = crate::DestinationError::Host {
            host: "evil.example.net".into(),
        };
        let error = Error::Discovery(DiscoveryError::endpoint_not_allowed(
            "https://idp.example.com",
            "token_endpoint",
            refused,
        ));
        assert!(Error::IdentityProvider(Box::new(error)).is_not_allowed());
        assert!(!Error::IdentityProvider(Box::new(Error::Interrupted)).is_not_allowed());
    }

    #[test]
    fn a_foreign_code_is_told_but_is_no_reason_of_its_own() {
        let error = rejected("consent_required", None);
        assert_eq!(
            (error.reason(), error.code()),
            ("other_error", "consent_required")
        );
    }
}
