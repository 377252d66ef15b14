//! Assertions: JWTs that say who the client is or what it may (RFC 7523), signed by this client or by
//! another party.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_http_auth::jws;
use oauth2::basic::BasicErrorResponseType;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::timeout;

use crate::token_check::read;
use crate::{Error, ErrorCode, SigningKey};

/// Seconds that an assertion is good for. Short, since it is used at once, and long enough for clocks that
/// differ.
const LIFETIME_SECONDS: i64 = 60;

/// The future of one assertion.
pub type AssertionFuture<'a> = Pin<Box<dyn Future<Output = Result<SecretString, Error>> + Send + 'a>>;

/// A source of assertions that another party signs, such as Kubernetes for a ServiceAccount.
pub trait AssertionSource: Send + Sync + 'static {
    /// An assertion for this audience: the issuer of the authorization server where it is known, else its
    /// token endpoint. A source with an audience of its own may use that. [`Error::NoAssertion`] where there
    /// is none.
    fn assertion<'a>(&'a self, audience: &'a str) -> AssertionFuture<'a>;
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub enum Assertions {
    /// This one, until the registration is replaced.
    Given(GivenAssertion),
    /// Asked for with each token request.
    From(Arc<dyn AssertionSource>),
}

/// An assertion that something else keeps in a Secret, and what came of it. Clones share that.
#[derive(Clone)]
pub struct GivenAssertion(Arc<Given>);

struct Given {
    text: SecretString,
    /// Unix seconds; where it is a JWT that says so.
    expires_at: Option<i64>,
    history: AtomicU8,
}

/// It brought no token yet.
const NEW: u8 = 0;
/// It brought a token.
const ACCEPTED: u8 = 1;
/// It brought a token, and the server refused it after that.
const USED_UP: u8 = 2;

impl GivenAssertion {
    pub fn new(text: SecretString) -> Self {
        Self(Arc::new(Given {
            expires_at: read(text.expose_secret()).and_then(|claims| claims.expires_at),
            text,
            history: AtomicU8::new(NEW),
        }))
    }

    /// Remembers what a request with it brought. A refusal after a success means that the server takes it once,
    /// as Keycloak does, and not that it is wrong.
    fn learn<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let history = &self.0.history;
        match outcome {
            Err(Error::Rejected(rejection))
                if rejection.code == ErrorCode::Basic(BasicErrorResponseType::InvalidGrant)
                    && history.load(Ordering::Relaxed) == ACCEPTED =>
            {
                history.store(USED_UP, Ordering::Relaxed);
                Err(Error::AssertionUsed)
            }
            // The server took it; what it issued does not fit.
            Ok(_) | Err(Error::TokenMismatch(_)) => {
                history.store(ACCEPTED, Ordering::Relaxed);
                outcome
            }
            Err(error) => Err(error),
        }
    }

    fn usable(&self, now: Timestamp) -> Result<SecretString, Error> {
        if self.0.history.load(Ordering::Relaxed) == USED_UP {
            return Err(Error::AssertionUsed);
        }
        match self.0.expires_at {
            Some(end) if end <= now.as_second() => Err(Error::AssertionExpired {
                at: Timestamp::from_second(end).unwrap_or(Timestamp::MIN),
            }),
            _ => Ok(self.0.text.clone()),
        }
    }
}

impl ExposeSecret<str> for GivenAssertion {
    fn expose_secret(&self) -> &str {
        self.0.text.expose_secret()
    }
}

impl From<&str> for GivenAssertion {
    fn from(text: &str) -> Self {
        Self::new(text.into())
    }
}

impl Assertions {
    /// Remembers what came of a request with the assertion, see [`GivenAssertion::learn`].
    pub(crate) fn learn<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match self {
            Self::Given(assertion) => assertion.learn(outcome),
            Self::From(_) => outcome,
        }
    }

    /// The assertion, or an error where its source takes longer than `limit`.
    pub(crate) async fn assertion(
        &self,
        audience: &str,
        now: Timestamp,
        limit: Duration,
    ) -> Result<SecretString, Error> {
        match self {
            Self::Given(assertion) => assertion.usable(now),
            Self::From(source) => timeout(limit, source.assertion(audience))
                .await
                .unwrap_or_else(|_| {
                    Err(Error::NoAssertion {
                        problem: format!("there was none within {} s", limit.as_secs_f64()),
                    })
                }),
        }
    }
}

impl fmt::Debug for Assertions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Given(_) => "Given",
            Self::From(_) => "From",
        })
    }
}

/// The assertion of a client about itself (RFC 7523 section 3). `nbf` is left out: it would only add a way to
/// fail where clocks differ.
pub(crate) fn sign(
    key: &SigningKey,
    client_id: &str,
    audience: &str,
    now: Timestamp,
) -> Result<SecretString, Error> {
    let mut header = json!({"alg": key.algorithm().as_str(), "typ": "JWT"});
    if let Some(key_id) = key.key_id() {
        header["kid"] = key_id.into();
    }
    let now = now.as_second();
    let claims = json!({
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": now,
        "exp": now.saturating_add(LIFETIME_SECONDS),
        "jti": jws::random_jti(),
    });
    jws::sign_compact(
        &jws::encode_header(&header.to_string()),
        claims.to_string().as_bytes(),
        |message| key.sign(message),
    )
    .map(SecretString::from)
    .map_err(|_| Error::Unsigned)
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
    use secrecy::ExposeSecret;
    use serde_json::Value;

    use super::*;

    fn key(key_id: Option<&str>) -> SigningKey {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        SigningKey::parse(&pem, None, key_id.map(Into::into)).unwrap()
    }

    fn part(assertion: &SecretString, index: usize) -> Value {
        let part = assertion.expose_secret().split('.').nth(index).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn signed(key: &SigningKey) -> SecretString {
        sign(
            key,
            "client \"1\"",
            "https://as.example.com",
            Timestamp::from_second(1_900_000_000).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn says_who_the_client_is_to_whom_and_for_how_long() {
        let assertion = signed(&key(Some("k-1")));
        assert_eq!(
            part(&assertion, 0),
            json!({"alg": "ES256", "typ": "JWT", "kid": "k-1"})
        );
        let mut claims = part(&assertion, 1);
        let id = claims.as_object_mut().unwrap().remove("jti").unwrap();
        assert_eq!(id.as_str().unwrap().len(), 22);
        assert_eq!(
            claims,
            json!({
                "iss": "client \"1\"", "sub": "client \"1\"", "aud": "https://as.example.com",
                "iat": 1_900_000_000, "exp": 1_900_000_060,
            })
        );
    }

    #[test]
    fn names_no_key_where_the_key_has_no_name() {
        assert_eq!(
            part(&signed(&key(None)), 0),
            json!({"alg": "ES256", "typ": "JWT"})
        );
    }

    #[test]
    fn no_two_assertions_have_the_same_id() {
        let key = key(None);
        assert_ne!(part(&signed(&key), 1)["jti"], part(&signed(&key), 1)["jti"]);
    }

    #[test]
    fn debug_output_never_holds_the_assertion() {
        assert_eq!(
            format!("{:?}", Assertions::Given("eyJ.t0p.s3cret".into())),
            "Given"
        );
    }
}
