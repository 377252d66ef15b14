//! The token, and the rules for its life: when it began, when it ends, and when that is not known.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_http_auth::ProofKey;
use oauth2::AccessToken;

use crate::clock::{time_after, time_before};
use crate::{ClaimMismatchError, Error, IssuedToken, ReportedClaims, ServerMetadata, TokenType};

/// Life that a token is renewed by when the server does not state one. Short, since nothing is known, and
/// long enough to be no burden; the authorization servers in use issue nothing shorter by default.
pub(crate) const ASSUMED_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Longest life believed. Keeps all arithmetic far from its limits; such a token is renewed years ahead
/// anyway.
const MAX_LIFETIME_SECONDS: i64 = 10 * 365 * 24 * 60 * 60;

/// An access token and its life.
#[derive(Clone, Debug)]
pub struct Token {
    /// Names this token without telling it: random.
    pub id: String,
    pub access_token: AccessToken,
    pub token_type: TokenType,
    /// The key that a DPoP token is bound to.
    pub proof_key: Option<Arc<ProofKey>>,
    pub by_alternate_secret: bool,
    pub certificate_bound: bool,
    pub mismatch: Option<ClaimMismatchError>,
    /// What may be told of the claims; none of an opaque token, and of a user's own.
    pub claims: Option<Arc<ReportedClaims>>,
    pub server: Option<Arc<ServerMetadata>>,
    /// When the request for it was sent, not when the answer came: the server counts from some moment in
    /// between, so this never overstates the life that is left.
    pub issued_at: Timestamp,
    /// `None`: the server does not say. Such a token is renewed regularly and serves until it has a
    /// successor.
    pub expires_at: Option<Timestamp>,
    /// The scope granted, where the server says so.
    pub scope: Option<String>,
}

impl Token {
    /// The token that a request sent at `sent_at` brought by `now`. One that is over by then is an error: it
    /// could only be used for nothing, and asking again at once would bring the same.
    pub(crate) fn issue(issued: IssuedToken, sent_at: Timestamp, now: Timestamp) -> Result<Self, Error> {
        let expires_in = issued.expires_in;
        let sent_at = time_before(sent_at, issued.age);
        let expires_at = expires_in.map(|seconds| {
            let life = u64::try_from(seconds.min(MAX_LIFETIME_SECONDS)).unwrap_or(0);
            time_after(sent_at, Duration::from_secs(life))
        });
        let token = Self::handed_over(issued, sent_at, expires_at);
        if token.is_expired(now) {
            return Err(Error::ExpiredOnArrival {
                expires_in: expires_in.unwrap_or_default(),
            });
        }
        Ok(token)
    }

    /// A token from elsewhere, with the times of its issue and its end.
    pub fn handed_over(issued: IssuedToken, issued_at: Timestamp, expires_at: Option<Timestamp>) -> Self {
        Self {
            id: format!("{:016x}", rand::random::<u64>()),
            access_token: issued.access_token,
            token_type: issued.token_type,
            proof_key: issued.proof_key,
            by_alternate_secret: issued.by_alternate_secret,
            certificate_bound: issued.certificate_bound,
            mismatch: issued.mismatch,
            claims: issued.claims,
            server: issued.server,
            issued_at,
            expires_at,
            scope: issued.scope,
        }
    }

    /// Whether this is the very token that was issued before, by a server that issues each until its end.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.access_token.secret() == other.access_token.secret()
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// From issue to expiry, assumed where it is not known.
    pub(crate) fn life(&self) -> Duration {
        self.stated_life().unwrap_or(ASSUMED_LIFETIME)
    }

    /// From issue to expiry, where that is known.
    pub(crate) fn stated_life(&self) -> Option<Duration> {
        let end = self.expires_at?;
        Some(Duration::try_from(end.duration_since(self.issued_at)).unwrap_or(Duration::ZERO))
    }
}

/// The life of a token in seconds: the shorter of the server's word and the token's own, since who verifies
/// the token goes by the latter. The token's own alone where the server has none or says that the token it
/// issues is over; the server's word alone where that of the token has come already, which is for the check
/// to judge.
pub(crate) fn life(stated: Option<i64>, own: Option<i64>) -> Option<i64> {
    match (stated, own) {
        (Some(..=0) | None, Some(own)) => Some(own),
        (Some(stated), Some(own @ 1..)) => Some(stated.min(own)),
        (stated, _) => stated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: i64 = 1_900_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn issue(expires_in: Option<i64>, took: i64) -> Result<Token, Error> {
        let issued = IssuedToken {
            expires_in,
            ..IssuedToken::bearer("t0p-s3cret")
        };
        Token::issue(issued, at(SENT), at(SENT + took))
    }

    #[test]
    fn its_life_counts_from_the_request_not_from_the_answer() {
        let token = issue(Some(3600), 7).unwrap();
        assert_eq!(token.issued_at, at(SENT));
        assert_eq!(token.expires_at, Some(at(SENT + 3600)));
    }

    #[test]
    fn the_life_of_one_that_another_source_requested_counts_from_that_request() {
        let issued = IssuedToken {
            expires_in: Some(3600),
            age: Duration::from_secs(600),
            ..IssuedToken::bearer("t0p-s3cret")
        };
        let token = Token::issue(issued, at(SENT), at(SENT)).unwrap();
        assert_eq!(
            (token.issued_at, token.expires_at),
            (at(SENT - 600), Some(at(SENT + 3000)))
        );
    }

    #[test]
    fn expires_at_the_second_stated_and_not_before() {
        let token = issue(Some(3600), 0).unwrap();
        assert!(!token.is_expired(at(SENT + 3599)));
        assert!(token.is_expired(at(SENT + 3600)));
    }

    #[test]
    fn without_a_stated_life_it_never_counts_as_expired_but_has_a_life_to_renew_by() {
        let token = issue(None, 0).unwrap();
        assert!(!token.is_expired(Timestamp::MAX));
        assert_eq!(token.life(), ASSUMED_LIFETIME);
    }

    #[test]
    fn a_life_of_nothing_or_less_is_over_on_arrival() {
        for seconds in [0, -1, i64::MIN] {
            assert_eq!(
                issue(Some(seconds), 0).unwrap_err(),
                Error::ExpiredOnArrival { expires_in: seconds }
            );
        }
    }

    #[test]
    fn a_life_shorter_than_the_request_took_is_over_on_arrival() {
        assert!(issue(Some(5), 4).is_ok());
        assert_eq!(issue(Some(5), 5).unwrap_err().reason(), "ExpiredOnArrival");
    }

    #[test]
    fn an_absurd_life_is_ten_years() {
        let token = issue(Some(i64::MAX), 0).unwrap();
        assert_eq!(token.life(), Duration::from_secs(MAX_LIFETIME_SECONDS as u64));
    }

    #[test]
    fn the_shorter_of_two_lives_counts_where_both_are_some() {
        for (stated, own, expected) in [
            (Some(3600), Some(300), Some(300)),
            (Some(60), Some(300), Some(60)),
            (Some(0), Some(300), Some(300)),
            (Some(-1), Some(300), Some(300)),
            (None, Some(300), Some(300)),
            (None, Some(-5), Some(-5)),
            (Some(0), Some(-5), Some(-5)),
            (Some(3600), Some(-5), Some(3600)),
            (Some(3600), Some(0), Some(3600)),
            (Some(3600), None, Some(3600)),
            (Some(0), None, Some(0)),
            (None, None, None),
        ] {
            assert_eq!(life(stated, own), expected, "{stated:?} {own:?}");
        }
    }

    #[test]
    fn debug_output_never_holds_the_token() {
        assert!(!format!("{:?}", issue(Some(60), 0)).contains("t0p-s3cret"));
    }
}
