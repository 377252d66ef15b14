//! Assertions: JWTs that say who the client is or what it may (RFC 7523), signed by this client or by somebody else.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::SecretString;

use crate::Error;

/// The future of one assertion.
pub type Asserting<'a> = Pin<Box<dyn Future<Output = Result<SecretString, Error>> + Send + 'a>>;

/// A source of assertions that somebody else signs, such as Kubernetes for a ServiceAccount.
pub trait AssertionSource: Send + Sync + 'static {
    /// An assertion for this audience: the issuer of the authorization server where it is known, else its token
    /// endpoint. A source with an audience of its own may use that.
    fn assertion<'a>(&'a self, audience: &'a str) -> Asserting<'a>;
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub enum Assertions {
    /// This text, until the registration is replaced.
    Given(SecretString),
    /// Asked for with each token request.
    From(Arc<dyn AssertionSource>),
}

impl fmt::Debug for Assertions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Given(_) => "Given",
            Self::From(_) => "From",
        })
    }
}
