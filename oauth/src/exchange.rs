//! One token request, whatever grant it is: what [`TokenSource`](crate::TokenSource) calls when a token is due.

use std::pin::Pin;

use secrecy::SecretString;

use crate::Error;

/// The future of one token request.
pub type Exchanging<'a> = Pin<Box<dyn Future<Output = Result<Issued, Error>> + Send + 'a>>;

/// Makes one token request a call. It must come to an end by itself; dropping the future gives the request up.
pub trait Exchange: Send + Sync + 'static {
    fn exchange(&self) -> Exchanging<'_>;
}

/// What an authorization server issued (RFC 6749 section 5.1), before it is known when that was.
#[derive(Clone, Debug)]
pub struct Issued {
    pub access_token: SecretString,
    /// Seconds. `None`: the server does not say. May be zero or negative.
    pub expires_in: Option<i64>,
    /// The scope granted, where the server says so.
    pub scope: Option<String>,
}
