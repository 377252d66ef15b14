//! A token, in the form that requests need it: how it is presented, and how the MCP server takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, uri::PathAndQuery};
use jiff::Timestamp;
use mcp_auth_http_auth::ProofKey;
use mcp_auth_protocol::sync;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Shared by all requests that carry it. It keeps its standing for as long as the operator says the same token.
pub struct Token {
    /// Names it in reports without telling it.
    pub id: Box<str>,
    /// In Unix seconds.
    pub expires_at: Option<i64>,
    /// Value of `Authorization`, marked sensitive.
    authorization: HeaderValue,
    bound: Option<Bound>,
    standing: Standing,
}

/// What proves possession (RFC 9449): the proof holds a digest of the token.
struct Bound {
    key: ProofKey,
    token: SecretString,
}

/// How the MCP server took the token last, in milliseconds of the token's own life; 0 is never.
struct Standing {
    begun: Instant,
    refused: AtomicU64,
    taken: AtomicU64,
}

/// Whether a request may go with a token now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    Goes,
    /// The server refused the token; this request finds out whether it still does.
    Probes,
    /// The server refuses the token, so the request would be refused too.
    Waits {
        next_probe: Duration,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidToken {
    #[error("the token is empty or holds characters that a header cannot carry; look at what issued it")]
    Characters,
    #[error(
        "the key that the token is bound to is no P-256 key in PKCS#8 PEM; the operator makes it, so report this"
    )]
    ProofKey,
}

impl Token {
    /// `None` for a credential that is none.
    pub fn of(credential: &sync::Credential) -> Result<Option<Self>, InvalidToken> {
        let sync::Credential::Bearer {
            id,
            token,
            proof_key,
            expires_at,
        } = credential
        else {
            return Ok(None);
        };
        let bound = match proof_key {
            None => None,
            Some(pem) => Some(Bound {
                key: ProofKey::from_pem(pem.expose_secret()).map_err(|_| InvalidToken::ProofKey)?,
                token: token.clone(),
            }),
        };
        Ok(Some(Self {
            id: id.as_str().into(),
            expires_at: *expires_at,
            authorization: authorization(bound.is_some(), token)?,
            bound,
            standing: Standing {
                begun: Instant::now(),
                refused: AtomicU64::new(0),
                taken: AtomicU64::new(0),
            },
        }))
    }

    /// The same token of the same name and end, presented in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.expires_at == other.expires_at
            && self.authorization == other.authorization
            && self.bound.is_some() == other.bound.is_some()
    }

    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Whether requests with it carry a proof.
    pub fn is_bound(&self) -> bool {
        self.bound.is_some()
    }

    /// Sets the headers of a request that goes to `path` at `server`. Each call signs a proof of its own.
    pub fn authorize(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        server: &Url,
        path: &PathAndQuery,
        nonce: Option<&str>,
    ) {
        headers.insert(AUTHORIZATION, self.authorization.clone());
        let Some(bound) = &self.bound else { return };
        let mut url = server.clone();
        url.set_path(path.path());
        url.set_query(path.query());
        let proof = bound
            .key
            .proof(method, &url, Some(&bound.token), nonce, Timestamp::now());
        let mut proof = HeaderValue::try_from(proof).expect("a JWT is made of base64url and dots");
        proof.set_sensitive(true);
        headers.insert(DPOP, proof);
    }

    /// Whether the server has taken it at least once.
    pub fn was_taken(&self) -> bool {
        self.standing.taken.load(Ordering::Relaxed) != 0
    }

    /// `probe`: how long a refusal holds before one request tries again.
    pub fn admit(&self, probe: Duration) -> Admission {
        let refused = self.standing.refused.load(Ordering::Relaxed);
        if refused == 0 {
            return Admission::Goes;
        }
        let (now, probe) = (self.standing.now(), millis(probe));
        if now < refused + probe {
            return Admission::Waits {
                next_probe: Duration::from_millis(refused + probe - now),
            };
        }
        let first =
            self.standing
                .refused
                .compare_exchange(refused, now, Ordering::Relaxed, Ordering::Relaxed);
        match first {
            Ok(_) => Admission::Probes,
            Err(_) => Admission::Waits {
                next_probe: Duration::from_millis(probe),
            },
        }
    }

    /// The server refused it. That holds others up only if the server has not just taken it from somebody else:
    /// then it is about the request and not about the token.
    pub fn refused(&self, probe: Duration) {
        let (now, taken) = (self.standing.now(), self.standing.taken.load(Ordering::Relaxed));
        if taken == 0 || now >= taken + millis(probe) {
            self.standing.refused.store(now, Ordering::Relaxed);
        }
    }

    /// The server took it. True if a probe has found out so: nobody needs to wait any more.
    pub fn taken(&self, admission: Admission) -> bool {
        self.standing.taken.store(self.standing.now(), Ordering::Relaxed);
        admission == Admission::Probes && self.standing.refused.swap(0, Ordering::Relaxed) != 0
    }
}

impl Standing {
    fn now(&self) -> u64 {
        millis(self.begun.elapsed()).max(1)
    }
}

/// The token in use so far, if `new` is the same, so that it keeps its standing.
pub fn carry_on(before: Option<&Arc<Token>>, new: Token) -> Arc<Token> {
    match before {
        Some(before) if before.is_same(&new) => before.clone(),
        _ => Arc::new(new),
    }
}

fn authorization(bound: bool, token: &SecretString) -> Result<HeaderValue, InvalidToken> {
    let token = token.expose_secret();
    // The characters of RFC 6750 section 2.1 and any other visible one: not everybody keeps to it.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidToken::Characters);
    }
    let scheme = if bound { "DPoP" } else { "Bearer" };
    let mut value =
        HeaderValue::try_from(format!("{scheme} {token}")).map_err(|_| InvalidToken::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const PROBE: Duration = Duration::from_secs(1);

    fn token(id: &str, text: &str) -> Token {
        let credential = sync::Credential::Bearer {
            id: id.into(),
            token: text.into(),
            proof_key: None,
            expires_at: Some(1_000),
        };
        Token::of(&credential).unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_refused_one_request_at_a_time_finds_out_whether_it_still_is() {
        let token = token("a", "t");
        assert_eq!(token.admit(PROBE), Admission::Goes);
        advance(Duration::from_secs(60)).await;
        token.refused(PROBE);
        advance(Duration::from_millis(400)).await;
        let next_probe = Duration::from_millis(600);
        assert_eq!(token.admit(PROBE), Admission::Waits { next_probe });
        advance(next_probe).await;
        assert_eq!(token.admit(PROBE), Admission::Probes);
        assert!(matches!(token.admit(PROBE), Admission::Waits { .. }));
        assert!(
            !token.taken(Admission::Goes),
            "it may have been sent before the refusal"
        );
        assert!(matches!(token.admit(PROBE), Admission::Waits { .. }));
        assert!(token.taken(Admission::Probes));
        assert_eq!(token.admit(PROBE), Admission::Goes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_one_request_among_many_that_pass_holds_nobody_up() {
        let token = token("a", "t");
        advance(Duration::from_secs(60)).await;
        token.taken(Admission::Goes);
        advance(PROBE / 2).await;
        token.refused(PROBE);
        assert_eq!(token.admit(PROBE), Admission::Goes);
        advance(PROBE / 2).await;
        token.refused(PROBE);
        assert!(matches!(token.admit(PROBE), Admission::Waits { .. }));
    }

    #[test]
    fn only_the_very_same_token_keeps_its_standing() {
        let before = Arc::new(token("a", "t"));
        assert!(Arc::ptr_eq(&before, &carry_on(Some(&before), token("a", "t"))));
        for other in [token("b", "t"), token("a", "u")] {
            assert!(!Arc::ptr_eq(&before, &carry_on(Some(&before), other)));
        }
    }

    #[test]
    fn the_authorization_value_is_marked_sensitive() {
        let mut headers = HeaderMap::new();
        let url = Url::parse("https://tools.example.com/mcp").unwrap();
        let path = PathAndQuery::from_static("/mcp");
        token("a", "t0p-s3cret").authorize(&mut headers, &Method::POST, &url, &path, None);
        assert_eq!(headers[AUTHORIZATION], "Bearer t0p-s3cret");
        assert!(headers[AUTHORIZATION].is_sensitive());
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_key_that_is_none_is_said_without_showing_it() {
        let credential = sync::Credential::Bearer {
            id: "a".into(),
            token: "t".into(),
            proof_key: Some("s3cret-but-no-key".into()),
            expires_at: None,
        };
        let invalid = Token::of(&credential).err().unwrap();
        assert_eq!(invalid, InvalidToken::ProofKey);
        assert!(!invalid.to_string().contains("s3cret"));
    }

    #[test]
    fn is_used_until_the_second_it_ends() {
        assert!(!token("a", "t").has_expired(999));
        assert!(token("a", "t").has_expired(1_000));
    }
}
