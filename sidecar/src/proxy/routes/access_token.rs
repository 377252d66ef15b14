//! Access token: a credential of the operator in the form that requests need it. How it is presented, and
//! whether the MCP server accepts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, uri::PathAndQuery};
use jiff::Timestamp;
use mcp_auth_http_auth::{ClockOffset, ProofKey};
use mcp_auth_protocol::sync;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Shared by all requests that carry it. It keeps its acceptance state for as long as the operator sends the
/// same token.
pub struct AccessToken {
    /// Identifies the token in reports, which do not hold the token itself.
    pub id: Box<str>,
    /// In Unix seconds.
    pub expires_at: Option<i64>,
    /// Value of `Authorization`, marked sensitive.
    authorization: HeaderValue,
    dpop_binding: Option<DpopBinding>,
    acceptance: AcceptanceState,
}

/// What proves possession (RFC 9449): the proof holds a digest of the token.
struct DpopBinding {
    key: ProofKey,
    token: SecretString,
}

/// When the MCP server last accepted and rejected the token, in milliseconds since `created`; 0 is never.
struct AcceptanceState {
    created: Instant,
    rejected_at: AtomicU64,
    accepted_at: AtomicU64,
}

/// Whether a request may be sent with a token now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    Unrestricted,
    /// The server rejected the token; this request finds out whether it still does.
    Probe,
    /// The server rejects the token, so the request would be rejected too.
    Wait {
        next_probe: Duration,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidTokenError {
    #[error("the token is empty or holds characters that a header cannot carry; look at what issued it")]
    Characters,
    #[error(
        "the key that the token is bound to is no P-256 key in PKCS#8 PEM; the operator makes it, so report \
         this"
    )]
    ProofKey,
}

impl AccessToken {
    /// `None` for a credential that is none.
    pub fn from_credential(credential: &sync::Credential) -> Result<Option<Self>, InvalidTokenError> {
        let sync::Credential::Bearer {
            id,
            token,
            proof_key,
            expires_at,
        } = credential
        else {
            return Ok(None);
        };
        let dpop_binding = match proof_key {
            None => None,
            Some(pem) => Some(DpopBinding {
                key: ProofKey::from_pem(pem.expose_secret()).map_err(|_| InvalidTokenError::ProofKey)?,
                token: token.clone(),
            }),
        };
        Ok(Some(Self {
            id: id.as_str().into(),
            expires_at: *expires_at,
            authorization: authorization(dpop_binding.is_some(), token)?,
            dpop_binding,
            acceptance: AcceptanceState {
                created: Instant::now(),
                rejected_at: AtomicU64::new(0),
                accepted_at: AtomicU64::new(0),
            },
        }))
    }

    /// The same token of the same name and end, presented in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.expires_at == other.expires_at
            && self.authorization == other.authorization
            && self.is_bound() == other.is_bound()
    }

    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// Whether requests with it carry a proof.
    pub fn is_bound(&self) -> bool {
        self.dpop_binding.is_some()
    }

    /// Sets the headers of a request that goes to `path` at `server`. Each call signs a proof of its own, with the time that the
    /// server's clock shows.
    pub fn authorize(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        server: &Url,
        path: &PathAndQuery,
        nonce: Option<&str>,
        clock_offset: &ClockOffset,
    ) {
        headers.insert(AUTHORIZATION, self.authorization.clone());
        let Some(binding) = &self.dpop_binding else { return };
        let mut url = server.clone();
        url.set_path(path.path());
        url.set_query(path.query());
        let now = clock_offset.at_server(Timestamp::now());
        let proof = binding.key.proof(method, &url, Some(&binding.token), nonce, now);
        let mut proof = HeaderValue::try_from(proof).expect("a JWT is made of base64url and dots");
        proof.set_sensitive(true);
        headers.insert(DPOP, proof);
    }

    /// Whether the server has accepted it at least once.
    pub fn was_accepted(&self) -> bool {
        self.acceptance.accepted_at.load(Ordering::Relaxed) != 0
    }

    /// `probe_interval`: how long requests wait after a rejection before one of them tries again.
    pub fn admit(&self, probe_interval: Duration) -> Admission {
        let rejected_at = self.acceptance.rejected_at.load(Ordering::Relaxed);
        if rejected_at == 0 {
            return Admission::Unrestricted;
        }
        let (now, interval) = (self.acceptance.now(), milliseconds(probe_interval));
        if now < rejected_at + interval {
            return Admission::Wait {
                next_probe: Duration::from_millis(rejected_at + interval - now),
            };
        }
        let first = self.acceptance.rejected_at.compare_exchange(
            rejected_at,
            now,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        match first {
            Ok(_) => Admission::Probe,
            Err(_) => Admission::Wait {
                next_probe: Duration::from_millis(interval),
            },
        }
    }

    /// Records that the server rejected it. Other requests wait only if the server has not just accepted it
    /// with another request: else the rejection is about the request and not about the token.
    pub fn record_rejected(&self, probe_interval: Duration) {
        let (now, accepted_at) = (
            self.acceptance.now(),
            self.acceptance.accepted_at.load(Ordering::Relaxed),
        );
        if accepted_at == 0 || now >= accepted_at + milliseconds(probe_interval) {
            self.acceptance.rejected_at.store(now, Ordering::Relaxed);
        }
    }

    /// Records that the server accepted it. True if a probe has found that out, so that no request needs to
    /// wait any more.
    pub fn record_accepted(&self, admission: Admission) -> bool {
        self.acceptance
            .accepted_at
            .store(self.acceptance.now(), Ordering::Relaxed);
        admission == Admission::Probe && self.acceptance.rejected_at.swap(0, Ordering::Relaxed) != 0
    }
}

impl AcceptanceState {
    fn now(&self) -> u64 {
        milliseconds(self.created.elapsed()).max(1)
    }
}

/// The token in use so far, if `new` is the same, so that it keeps its acceptance state.
pub fn reuse_if_same(previous: Option<&Arc<AccessToken>>, new: AccessToken) -> Arc<AccessToken> {
    match previous {
        Some(previous) if previous.is_same(&new) => previous.clone(),
        _ => Arc::new(new),
    }
}

fn authorization(bound: bool, token: &SecretString) -> Result<HeaderValue, InvalidTokenError> {
    let token = token.expose_secret();
    // The characters of RFC 6750 section 2.1 and any other visible one: some servers issue others.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidTokenError::Characters);
    }
    let scheme = if bound { "DPoP" } else { "Bearer" };
    let mut value =
        HeaderValue::try_from(format!("{scheme} {token}")).map_err(|_| InvalidTokenError::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const PROBE: Duration = Duration::from_secs(1);

    fn token(id: &str, text: &str) -> AccessToken {
        let credential = sync::Credential::Bearer {
            id: id.into(),
            token: text.into(),
            proof_key: None,
            expires_at: Some(1_000),
        };
        AccessToken::from_credential(&credential).unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_rejected_one_request_at_a_time_probes_whether_it_still_is() {
        let token = token("a", "t");
        assert_eq!(token.admit(PROBE), Admission::Unrestricted);
        advance(Duration::from_secs(60)).await;
        token.record_rejected(PROBE);
        advance(Duration::from_millis(400)).await;
        let next_probe = Duration::from_millis(600);
        assert_eq!(token.admit(PROBE), Admission::Wait { next_probe });
        advance(next_probe).await;
        assert_eq!(token.admit(PROBE), Admission::Probe);
        assert!(matches!(token.admit(PROBE), Admission::Wait { .. }));
        assert!(
            !token.record_accepted(Admission::Unrestricted),
            "it may have been sent before the rejection"
        );
        assert!(matches!(token.admit(PROBE), Admission::Wait { .. }));
        assert!(token.record_accepted(Admission::Probe));
        assert_eq!(token.admit(PROBE), Admission::Unrestricted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_of_one_request_among_many_that_pass_makes_no_other_wait() {
        let token = token("a", "t");
        advance(Duration::from_secs(60)).await;
        token.record_accepted(Admission::Unrestricted);
        advance(PROBE / 2).await;
        token.record_rejected(PROBE);
        assert_eq!(token.admit(PROBE), Admission::Unrestricted);
        advance(PROBE / 2).await;
        token.record_rejected(PROBE);
        assert!(matches!(token.admit(PROBE), Admission::Wait { .. }));
    }

    #[test]
    fn only_the_very_same_token_keeps_its_acceptance_state() {
        let previous = Arc::new(token("a", "t"));
        assert!(Arc::ptr_eq(
            &previous,
            &reuse_if_same(Some(&previous), token("a", "t"))
        ));
        for other in [token("b", "t"), token("a", "u")] {
            assert!(!Arc::ptr_eq(&previous, &reuse_if_same(Some(&previous), other)));
        }
    }

    #[test]
    fn the_authorization_value_is_marked_sensitive() {
        let mut headers = HeaderMap::new();
        let url = Url::parse("https://tools.example.com/mcp").unwrap();
        let path = PathAndQuery::from_static("/mcp");
        token("a", "t0p-s3cret").authorize(
            &mut headers,
            &Method::POST,
            &url,
            &path,
            None,
            &ClockOffset::default(),
        );
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
        let invalid = AccessToken::from_credential(&credential).err().unwrap();
        assert_eq!(invalid, InvalidTokenError::ProofKey);
        assert!(!invalid.to_string().contains("s3cret"));
    }

    #[test]
    fn is_used_until_the_second_it_ends() {
        assert!(!token("a", "t").has_expired(999));
        assert!(token("a", "t").has_expired(1_000));
    }
}
