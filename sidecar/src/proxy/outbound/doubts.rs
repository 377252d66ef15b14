//! Users whose own cookies or headers an MCP server may be refusing, rather than the service's token: it refused two
//! tokens in a row to the same user, the first of which it had taken before. The operator is not asked for a third on
//! their account, for a while.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::headers::UserPart;
use crate::proxy::routes::{Server, Usable};

/// Longer than the operator takes to trust a token again that nobody refuses, so that it never counts two of one user's
/// refusals in a row; and not so long that one user alone, to whom a token is refused for another reason by then, waits
/// for ever.
const DOUBTED: Duration = Duration::from_secs(15 * 60);

/// A user's part of the calls of one server, by a keyed digest: what was sent is not kept.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Caller(u64);

pub struct Doubts {
    /// Random, so that what names a user here is worth nothing elsewhere.
    key: RandomState,
    doubted: Mutex<HashMap<Caller, Doubt>>,
    most: usize,
}

struct Doubt {
    until: Instant,
    /// The second token was refused too.
    settled: bool,
}

impl Doubts {
    /// Of `most` users at the same time. Those beyond are not doubted, which costs the operator requests and nobody
    /// an answer.
    pub fn new(most: usize) -> Self {
        Self {
            key: RandomState::new(),
            doubted: Mutex::default(),
            most,
        }
    }

    /// `None` for a call that carries nothing of a user.
    pub fn caller(&self, server: &Server, usable: &Usable, user: &UserPart) -> Option<Caller> {
        let named = || (&server.name, usable.url.as_str(), user);
        (!user.is_empty()).then(|| Caller(self.key.hash_one(named())))
    }

    /// The server refused this user a token that it has taken from somebody: it may be the user.
    pub fn suspect(&self, caller: Caller) {
        let now = Instant::now();
        let mut doubted = self.lock();
        if doubted.len() >= self.most {
            doubted.retain(|_, doubt| now < doubt.until);
        }
        if doubted.len() < self.most {
            let doubt = || Doubt {
                until: now + DOUBTED,
                settled: false,
            };
            doubted.entry(caller).or_insert_with(doubt);
        }
    }

    /// The server refused this user the next token too. Whoever was not suspected is not doubted: where no token was
    /// ever taken, it is the tokens.
    pub fn doubt(&self, caller: Caller) {
        if let Some(doubt) = self.lock().get_mut(&caller) {
            doubt.settled = true;
        }
    }

    pub fn is_doubted(&self, caller: Caller) -> bool {
        self.lock()
            .get(&caller)
            .is_some_and(|doubt| doubt.settled && Instant::now() < doubt.until)
    }

    /// Drops what is of no use any more.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, doubt| now < doubt.until);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, Doubt>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn caller(doubts: &Doubts, url: &str, cookie: Option<&'static str>) -> Option<Caller> {
        let server = server(url, Transport::StreamableHttp);
        let usable = server.usable().unwrap();
        let cookie = cookie.map(|cookie| (COOKIE, cookie.parse().unwrap()));
        let headers: HeaderMap = cookie.into_iter().collect();
        let context = gather(&headers, &usable.allowed).unwrap().context;
        doubts.caller(&server, usable, &UserPart::of(context.as_ref(), &usable.allowed))
    }

    #[test]
    fn callers_differ_by_what_they_send_and_where_to() {
        let doubts = Doubts::new(10);
        let url = "https://tools.example.com/mcp";
        let ada = caller(&doubts, url, Some("session_id=a"));
        assert!(ada.is_some());
        assert_eq!(ada, caller(&doubts, url, Some("session_id=a")));
        for other in [
            caller(&doubts, url, Some("session_id=b")),
            caller(&doubts, "https://tools.example.com/other", Some("session_id=a")),
            caller(&Doubts::new(10), url, Some("session_id=a")),
        ] {
            assert!(other.is_some() && other != ada);
        }
        for nobody in [None, Some("other=a")] {
            assert_eq!(caller(&doubts, url, nobody), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_ends_and_there_are_only_so_many() {
        let doubts = Doubts::new(2);
        for number in 0..3 {
            doubts.suspect(Caller(number));
            doubts.doubt(Caller(number));
        }
        let known = |doubts: &Doubts| (0..3).filter(|number| doubts.is_doubted(Caller(*number))).count();
        assert_eq!(known(&doubts), 2);
        advance(DOUBTED / 2).await;
        doubts.suspect(Caller(0));
        doubts.doubt(Caller(0));
        advance(DOUBTED / 2).await;
        assert_eq!(known(&doubts), 0, "it is not put off for ever");
        doubts.suspect(Caller(2));
        doubts.doubt(Caller(2));
        assert!(doubts.is_doubted(Caller(2)), "there is room again");
        doubts.sweep();
        assert_eq!(doubts.lock().len(), 1);
    }
}
