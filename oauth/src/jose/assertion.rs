//! Assertions: JWTs that say who the client is or what it may (RFC 7523), signed by this client or by
//! another party.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_http_auth::jws;
use oauth2::basic::BasicErrorResponseType;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::token_check::read;
use crate::{Error, ErrorCode, ErrorResponse, SigningKey};

/// Seconds that an assertion is good for. Short, since it is used at once, and long enough for clocks that
/// differ.
const LIFETIME_SECONDS: i64 = 60;

/// How far before the operator's time an assertion says that it was issued: some servers allow for no difference of clocks,
/// and refuse what comes from their future.
const BACKDATED_SECONDS: i64 = 10;

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
    /// Signed for each token request.
    Signed(Arc<AssertionSigner>),
}

/// To whom an assertion that this client signs is addressed: its `aud`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AssertionAudience {
    /// The issuer of the authorization server where it is known, else its token endpoint.
    #[default]
    Issuer,
    TokenEndpoint,
    Stated(String),
}

/// By which names an authorization server can be addressed.
#[derive(Clone, Copy)]
pub(crate) struct ServerNames<'a> {
    /// The token endpoint where the issuer is not known.
    pub issuer: &'a str,
    pub token_endpoint: &'a str,
}

impl AssertionAudience {
    pub(crate) fn resolve<'a>(&'a self, server: ServerNames<'a>) -> &'a str {
        match self {
            Self::Issuer => server.issuer,
            Self::TokenEndpoint => server.token_endpoint,
            Self::Stated(stated) => stated,
        }
    }
}

/// What this client states in the assertions that it signs (RFC 7523 section 3).
#[derive(Clone, Debug)]
pub struct AssertionSigner {
    pub key: SigningKey,
    pub issuer: String,
    pub subject: String,
    pub audience: AssertionAudience,
    /// Further claims. Those that every assertion has are not among them.
    pub claims: BTreeMap<String, String>,
}

/// An assertion that something else keeps in a Secret, and what came of it. Clones share that.
#[derive(Clone)]
pub struct GivenAssertion(Arc<Given>);

struct Given {
    text: SecretString,
    /// The field that names it.
    field: &'static str,
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
    /// The grant itself.
    pub fn new(text: SecretString) -> Self {
        Self::in_field(text, "jwtBearer.assertionRef")
    }

    /// What says who the client is.
    pub fn for_client(text: SecretString) -> Self {
        Self::in_field(text, "clientAuthentication.clientAssertion.secretKeyRef")
    }

    fn in_field(text: SecretString, field: &'static str) -> Self {
        Self(Arc::new(Given {
            field,
            expires_at: read(text.expose_secret()).and_then(|claims| claims.expires_at),
            text,
            history: AtomicU8::new(NEW),
        }))
    }

    /// Remembers what a request with it brought. A refusal after a success means that the server takes it once,
    /// as Keycloak does, and not that it is wrong.
    fn learn<T>(
        &self,
        outcome: Result<T, Error>,
        refuses: impl Fn(&ErrorResponse) -> bool,
    ) -> Result<T, Error> {
        let Given { history, field, .. } = &*self.0;
        match outcome {
            Err(Error::Rejected(rejection))
                if refuses(&rejection) && history.load(Ordering::Relaxed) == ACCEPTED =>
            {
                history.store(USED_UP, Ordering::Relaxed);
                Err(Error::AssertionUsed { field })
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
            return Err(Error::AssertionUsed { field: self.0.field });
        }
        match self.0.expires_at {
            Some(end) if end <= now.as_second() => Err(Error::AssertionExpired {
                field: self.0.field,
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
            Self::Given(assertion) => assertion.learn(outcome, |rejection| {
                rejection.code == ErrorCode::Basic(BasicErrorResponseType::InvalidGrant)
            }),
            Self::From(_) | Self::Signed(_) => outcome,
        }
    }

    /// The same of an assertion that says who the client is.
    pub(crate) fn learn_of_client<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match self {
            Self::Given(assertion) => assertion.learn(outcome, ErrorResponse::is_of_client),
            Self::From(_) | Self::Signed(_) => outcome,
        }
    }

    /// The assertion, or an error where its source takes longer than `limit`.
    pub(crate) async fn assertion(
        &self,
        server: ServerNames<'_>,
        now: Timestamp,
        limit: Duration,
    ) -> Result<SecretString, Error> {
        match self {
            Self::Given(assertion) => assertion.usable(now),
            Self::Signed(signer) => sign(signer, signer.audience.resolve(server), now),
            Self::From(source) => timeout(limit, source.assertion(server.issuer))
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
            Self::Signed(_) => "Signed",
        })
    }
}

/// The assertion of a client about itself (RFC 7523 section 3).
pub(crate) fn sign_for_client(
    key: &SigningKey,
    client_id: &str,
    audience: &str,
    now: Timestamp,
) -> Result<SecretString, Error> {
    let signer = AssertionSigner {
        key: key.clone(),
        issuer: client_id.to_owned(),
        subject: client_id.to_owned(),
        audience: AssertionAudience::default(),
        claims: BTreeMap::new(),
    };
    sign(&signer, audience, now)
}

/// `nbf` is left out: it would only add a way to fail where clocks differ.
fn sign(signer: &AssertionSigner, audience: &str, now: Timestamp) -> Result<SecretString, Error> {
    let now = now.as_second();
    let mut claims = json!(signer.claims);
    for (name, value) in [
        ("iss", json!(signer.issuer)),
        ("sub", json!(signer.subject)),
        ("aud", json!(audience)),
        ("iat", json!(now.saturating_sub(BACKDATED_SECONDS))),
        ("exp", json!(now.saturating_add(LIFETIME_SECONDS))),
        ("jti", json!(jws::random_jti())),
    ] {
        claims[name] = value;
    }
    sign_claims(&signer.key, &claims)
}

/// A JWT with these claims, in whose header the key is named.
pub(crate) fn sign_claims(key: &SigningKey, claims: &Value) -> Result<SecretString, Error> {
    let mut header = json!({"alg": key.algorithm().as_str(), "typ": "JWT"});
    if let Some(key_id) = key.key_id() {
        header["kid"] = key_id.into();
    }
    if let Some(certificate) = key.certificate() {
        header["x5t"] = certificate.sha1.as_str().into();
        header["x5t#S256"] = certificate.sha256.as_str().into();
    }
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
        sign_for_client(
            key,
            "client \"1\"",
            "https://as.example.com",
            Timestamp::from_second(1_900_000_000).unwrap(),
        )
        .unwrap()
    }

    /// Servers that allow for no difference refuse what was issued in their future.
    #[test]
    fn an_assertion_is_of_the_past_for_a_server_whose_clock_is_ten_seconds_behind() {
        let claims = part(&signed(&key(None)), 1);
        let clock_of_the_server = 1_900_000_000 - 10;
        assert!(claims["iat"].as_i64().unwrap() <= clock_of_the_server, "{claims}");
        assert!(claims.get("nbf").is_none(), "{claims}");
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
                "iat": 1_899_999_990, "exp": 1_900_000_060,
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
    fn a_certificate_is_named_by_both_of_its_thumbprints_beside_the_key() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let key = SigningKey::parse(&pair.serialize_pem(), None, Some("k-1".into()))
            .unwrap()
            .with_certificate(&certificate.pem())
            .unwrap();
        let thumbprint =
            |algorithm| BASE64_URL_SAFE_NO_PAD.encode(ring::digest::digest(algorithm, certificate.der()));
        assert_eq!(
            part(&signed(&key), 0),
            json!({
                "alg": "ES256", "typ": "JWT", "kid": "k-1",
                "x5t": thumbprint(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY),
                "x5t#S256": thumbprint(&ring::digest::SHA256),
            })
        );
    }

    #[test]
    fn further_claims_never_replace_those_that_every_assertion_has() {
        let signer = AssertionSigner {
            key: key(None),
            issuer: "i".into(),
            subject: "s".into(),
            audience: AssertionAudience::default(),
            claims: [("scope".into(), "a b".into()), ("sub".into(), "admin".into())].into(),
        };
        let now = Timestamp::from_second(1_900_000_000).unwrap();
        let claims = part(&sign(&signer, "aud", now).unwrap(), 1);
        assert_eq!((&claims["sub"], &claims["scope"]), (&json!("s"), &json!("a b")));
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
