//! Negative cache of suspect users, whose own cookies or headers an MCP server may be rejecting rather than
//! the service's token: it rejected two tokens in a row with the same user, the first of which it had
//! accepted before. For a while, rejections with such a user do not make the operator request another token.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::headers::UserPart;
use crate::proxy::routes::{McpServer, UsableServer};

/// Longer than the operator takes to trust a token again that no server rejects any more, so that it never
/// counts two rejections of one user in a row. Bounded, since by then the server may reject the token for
/// another reason, and this user's request may be the only one that shows it.
const SUSPICION_TTL: Duration = Duration::from_secs(15 * 60);

/// Keyed digest of a user's part of the requests to one server: the cookies and headers themselves are not
/// kept.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct UserPartDigest(u64);

pub struct SuspectUsers {
    /// Random, so that a digest means nothing outside of this process.
    key: RandomState,
    suspicions: Mutex<HashMap<UserPartDigest, Suspicion>>,
    capacity: usize,
}

struct Suspicion {
    expires_at: Instant,
    /// The second token was rejected too.
    confirmed: bool,
}

impl SuspectUsers {
    /// Of at most `capacity` users. Further ones are not suspected: that costs the operator requests, and no
    /// user an answer.
    pub fn new(capacity: usize) -> Self {
        Self {
            key: RandomState::new(),
            suspicions: Mutex::default(),
            capacity,
        }
    }

    /// `None` for a request without any cookie or header of a user.
    pub fn digest(
        &self,
        server: &McpServer,
        usable: &UsableServer,
        user: &UserPart,
    ) -> Option<UserPartDigest> {
        let hashed = || (&server.name, usable.url.as_str(), user);
        (!user.is_empty()).then(|| UserPartDigest(self.key.hash_one(hashed())))
    }

    /// Suspects the user: with them, the server rejected a token that it has accepted before.
    pub fn suspect(&self, digest: UserPartDigest) {
        let now = Instant::now();
        let mut suspicions = self.suspicions.lock();
        if suspicions.len() >= self.capacity {
            suspicions.retain(|_, suspicion| now < suspicion.expires_at);
        }
        if suspicions.len() < self.capacity {
            let suspicion = || Suspicion {
                expires_at: now + SUSPICION_TTL,
                confirmed: false,
            };
            suspicions.entry(digest).or_insert_with(suspicion);
        }
    }

    /// Confirms the suspicion: with this user, the server rejected the next token too. Without a suspicion
    /// nothing is recorded: a server that never accepted a token rejects the tokens.
    pub fn confirm(&self, digest: UserPartDigest) {
        if let Some(suspicion) = self.suspicions.lock().get_mut(&digest) {
            suspicion.confirmed = true;
        }
    }

    pub fn is_confirmed(&self, digest: UserPartDigest) -> bool {
        self.suspicions
            .lock()
            .get(&digest)
            .is_some_and(|suspicion| suspicion.confirmed && Instant::now() < suspicion.expires_at)
    }

    /// Removes the suspicions that have expired.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.suspicions
            .lock()
            .retain(|_, suspicion| now < suspicion.expires_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::outbound::tests::server;
    use crate::proxy::user_context::gather;
    use http::HeaderMap;
    use http::header::COOKIE;
    use mcp_auth_protocol::sync::Transport;
    use tokio::time::advance;

    fn digest(
        suspect_users: &SuspectUsers,
        url: &str,
        cookie: Option<&'static str>,
    ) -> Option<UserPartDigest> {
        let server = server(url, Transport::StreamableHttp);
        let usable = server.usable().unwrap();
        let cookie = cookie.map(|cookie| (COOKIE, cookie.parse().unwrap()));
        let headers: HeaderMap = cookie.into_iter().collect();
        let context = gather(&headers, &usable.allowed).unwrap().context;
        suspect_users.digest(
            &server,
            usable,
            &UserPart::from_context(context.as_ref(), &usable.allowed),
        )
    }

    #[test]
    fn digests_differ_by_user_part_server_and_process() {
        let suspect_users = SuspectUsers::new(10);
        let url = "https://tools.example.com/mcp";
        let ada = digest(&suspect_users, url, Some("session_id=a"));
        assert!(ada.is_some());
        assert_eq!(ada, digest(&suspect_users, url, Some("session_id=a")));
        for other in [
            digest(&suspect_users, url, Some("session_id=b")),
            digest(
                &suspect_users,
                "https://tools.example.com/other",
                Some("session_id=a"),
            ),
            digest(&SuspectUsers::new(10), url, Some("session_id=a")),
        ] {
            assert!(other.is_some() && other != ada);
        }
        for without_user in [None, Some("other=a")] {
            assert_eq!(digest(&suspect_users, url, without_user), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspicion_expires_and_there_are_at_most_as_many_as_the_capacity() {
        let suspect_users = SuspectUsers::new(2);
        for number in 0..3 {
            suspect_users.suspect(UserPartDigest(number));
            suspect_users.confirm(UserPartDigest(number));
        }
        let confirmed = |suspect_users: &SuspectUsers| {
            (0..3)
                .filter(|number| suspect_users.is_confirmed(UserPartDigest(*number)))
                .count()
        };
        assert_eq!(confirmed(&suspect_users), 2);
        advance(SUSPICION_TTL / 2).await;
        suspect_users.suspect(UserPartDigest(0));
        suspect_users.confirm(UserPartDigest(0));
        advance(SUSPICION_TTL / 2).await;
        assert_eq!(confirmed(&suspect_users), 0, "it is not prolonged");
        suspect_users.suspect(UserPartDigest(2));
        suspect_users.confirm(UserPartDigest(2));
        assert!(
            suspect_users.is_confirmed(UserPartDigest(2)),
            "there is room again"
        );
        suspect_users.sweep();
        assert_eq!(suspect_users.suspicions.lock().len(), 1);
    }
}
