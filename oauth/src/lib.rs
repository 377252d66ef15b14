//! The OAuth2 machine client: it turns a registration at an authorization server into a token that is always
//! valid, as far as the server lets it.
//!
//! A [`Registration`] says which client asks which server for which token; [`discovery`] finds the server
//! where it is not stated. [`Client`] makes one token request ([`token_request`] builds it and reads the
//! answer, [`transport`] carries it, [`ssrf`] says where it may go). [`TokenSource`] decides when to make one
//! ([`renewal`]) and publishes what came of it as [`TokenSourceState`]. [`UserTokens`] keeps those of users'
//! own. Nothing here knows Kubernetes or the proxy.

mod client;
mod clock;
mod destinations;
mod discovery;
mod discovery_watch;
mod egress_proxy;
mod error;
mod issuer;
mod jose;
mod key_set;
mod no_proxy;
mod preflight;
#[cfg(any(test, fuzzing))]
#[path = "../tests/promises/readers.rs"]
pub mod promises;
mod rate_limit;
mod redact;
mod registration;
mod renewal;
mod retry_after;
mod server_hints;
mod shared_tokens;
mod ssrf;
mod token;
mod token_check;
mod token_count;
mod token_request;
mod token_type;
mod transport;
mod user_tokens;

pub use client::{Client, ClientIdentity};
pub use clock::Clock;
pub use destinations::{AllowedAddresses, DestinationError, Destinations, HostPattern, HostPatternError};
pub use discovery::{Attempt, AttemptError, Discovery, DiscoveryError, ScopeOrigin, ServerMetadata};
pub use discovery_watch::{DiscoveryState, DiscoveryWatch};
pub use egress_proxy::{EgressProxy, EgressProxyError, ProxyCredentials, UsedProxy};
pub use error::{Advice, Error, ErrorCode, ErrorResponse, InstallationError, InstallationProblem};
pub use jose::assertion::{
    AssertionAudience, AssertionFuture, AssertionSigner, AssertionSource, Assertions, GivenAssertion,
};
pub use jose::service_account_key::ServiceAccountKey;
pub use jose::signing_key::{Algorithm, CertificateThumbprints, GeneratedKey, KeyError, SigningKey};
pub use key_set::{KeySetError, KeySetLocation, PublicKey, read_key_set};
pub use no_proxy::NoProxy;
pub use oauth2::basic::BasicErrorResponseType;
pub use oauth2::{AccessToken, ClientId, ClientSecret, Scope, TokenUrl};
pub use preflight::{PreflightProblem, TokenUse};
pub use rate_limit::RequestLimiter;
pub use registration::{
    ACCESS_TOKEN_TYPE, ClientAssertionType, ClientAuthentication, ClientCertificate, ClientSecrets,
    ExchangeProfile, GitHubApp, Grant, ID_TOKEN_TYPE, Registration, ServerLocation, TokenDigest,
    TokenExchange, ZeroExpiresIn,
};
pub use renewal::TokenSource;
pub use renewal::breaker::Circuit;
pub use renewal::policy::{Policy, RefreshBefore, RefreshBeforeError, TimeSpan, TimeSpanError};
pub use renewal::state::{Failure, TokenSourceState};
pub use renewal::step_up::{StepUp, StepUpError, is_scope_token};
pub use retry_after::RetryAfter;
pub use shared_tokens::{SharedRequester, SharedTokens, Slot as SharedTokenSlot};
pub use ssrf::ForbiddenAddressError;
pub use token::Token;
pub use token_check::{
    ClaimMismatchError, Claims, ReportedClaims, TokenCheck, TokenCheckMode, read as read_claims,
};
pub use token_count::{IssuedToday, TokenCount};
pub use token_request::{IssuedToken, TokenRequest, TokenRequestFuture, TokenRequester};
pub use token_type::TokenType;
pub use transport::Limits;
pub use transport::body_shape::BodyShape;
pub use transport::check_authority_keys;
pub use transport::connect_error::ConnectError;
pub use user_tokens::{TenantQuota, UserTokenLimit, UserTokenQuotas, UserTokens};
