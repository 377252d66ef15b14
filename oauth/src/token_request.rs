//! Token requests, whatever the grant: what [`TokenSource`](crate::TokenSource) calls when a token is
//! due.

pub(crate) mod client_auth;
pub(crate) mod endpoint_client;
pub(crate) mod form;
pub(crate) mod grant;
pub(crate) mod installation;
pub(crate) mod response;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_http_auth::ProofKey;
use oauth2::{AccessToken, Scope};

use crate::discovery::metadata::ServerMetadata;
use crate::error::Error;
use crate::token_check::{ClaimMismatchError, ReportedClaims};
use crate::token_type::TokenType;

/// The future of one token request.
pub type TokenRequestFuture<'a> = Pin<Box<dyn Future<Output = Result<IssuedToken, Error>> + Send + 'a>>;

/// Makes one token request a call. Dropping the future gives the request up, as it is where it takes too
/// long.
pub trait TokenRequester: Send + Sync + 'static {
    fn request(&self, request: &TokenRequest) -> TokenRequestFuture<'_>;
}

/// What is asked for beyond the registration.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// Scopes that an MCP server demanded (step-up), to be added to the registration's.
    pub scopes: Vec<Scope>,
    /// Tokens in a row that the MCP server refused: where they are of a server that was discovered, another
    /// one may be the right one by now.
    pub rejections_in_a_row: u32,
    /// The token that whoever asks has: another one is wanted.
    pub in_use: Option<AccessToken>,
    /// Life of a token for which the server states none. Nothing: such a token is as good as over.
    pub assumed_lifetime: Duration,
}

/// What an authorization server issued (RFC 6749 section 5.1), before it is known when that was.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub access_token: AccessToken,
    pub token_type: TokenType,
    /// The key that a DPoP token is bound to.
    pub proof_key: Option<Arc<ProofKey>>,
    /// Seconds. `None`: the server does not say. May be zero or negative.
    pub expires_in: Option<i64>,
    /// The scope granted, where the server says so.
    pub scope: Option<String>,
    /// The first client secret was refused, and this was issued for the alternate one.
    pub by_alternate_secret: bool,
    /// The token is a JWT that is bound to the client's certificate (`cnf.x5t#S256`, RFC 8705 section 3.1).
    pub certificate_bound: bool,
    /// Where the token does not fit the registration and that is only to be reported.
    pub mismatch: Option<ClaimMismatchError>,
    /// What may be told of the claims; none of an opaque token, and of a user's own.
    pub claims: Option<Arc<ReportedClaims>>,
    /// The server that issued it, where it was discovered.
    pub server: Option<Arc<ServerMetadata>>,
    /// How long ago it was requested, where another source did.
    pub age: Duration,
}

/// The outcome of a token request that may take this long.
pub(crate) async fn with_deadline<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = tokio::time::timeout(limit, request).await;
    outcome.unwrap_or(Err(Error::Timeout { limit }))
}

impl IssuedToken {
    /// A bearer token of which nothing else is known.
    pub fn bearer(access_token: impl Into<String>) -> Self {
        Self {
            access_token: AccessToken::new(access_token.into()),
            token_type: TokenType::Bearer,
            proof_key: None,
            expires_in: None,
            scope: None,
            by_alternate_secret: false,
            certificate_bound: false,
            mismatch: None,
            claims: None,
            server: None,
            age: Duration::ZERO,
        }
    }
}
