//! Idle limit: how long a connection to one server may wait for its next request. Servers close theirs after a time of
//! their own, and a request that is sent at that moment is lost; so the limit stays below that time, as far as it is
//! known: the server states it (`Keep-Alive: timeout=5`), or was seen to close a connection.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::time::Instant;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Where nothing is known. A service that is called now and then keeps its connection, and finds out by the first one
/// that the server closes.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(60);
/// No server is believed that would keep connections for longer.
const MAX_IDLE: Duration = Duration::from_secs(600);
/// Below what the server states: its clock began with the answer, ours with the end of it.
const MARGIN: Duration = Duration::from_secs(1);
/// Below the time after which it was seen to close: that is looked at each second.
const SEEN_MARGIN: Duration = Duration::from_secs(2);
const MIN_IDLE: Duration = Duration::from_secs(1);
/// It may have closed for another reason, such as a restart, so that is forgotten again.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

pub struct IdleLimit {
    default: Duration,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    stated: Option<Duration>,
    seen: Option<(Duration, Instant)>,
}

impl IdleLimit {
    pub fn new(default: Duration) -> Self {
        Self {
            default,
            known: Mutex::default(),
        }
    }

    pub fn current(&self) -> Duration {
        let known = *self.known.lock();
        let seen = known.seen.filter(|(_, until)| Instant::now() < *until);
        let seen = seen.map(|(limit, _)| limit);
        let limit = known.stated.unwrap_or(self.default);
        seen.map_or(limit, |seen| limit.min(seen))
    }

    /// An answer of the server, which may state the time.
    pub fn answered(&self, headers: &HeaderMap) {
        let Some(stated) = headers.get(KEEP_ALIVE) else {
            return;
        };
        let Some(seconds) = stated.to_str().ok().and_then(timeout_parameter) else {
            return;
        };
        let stated = Duration::from_secs(seconds).min(MAX_IDLE);
        let limit = stated.saturating_sub(MARGIN).max(stated / 2);
        self.known.lock().stated = Some(limit);
    }

    /// The server has closed a connection that waited for so long.
    pub fn closed_after(&self, idle: Duration) {
        let limit = idle.saturating_sub(SEEN_MARGIN).max(MIN_IDLE);
        let now = Instant::now();
        let mut known = self.known.lock();
        let before = known.seen.filter(|(_, until)| now < *until);
        if before.is_none_or(|(before, _)| limit <= before) {
            known.seen = Some((limit, now + REMEMBERED_FOR));
        }
    }
}

/// Of `timeout=5, max=100` the 5.
fn timeout_parameter(value: &str) -> Option<u64> {
    value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout
            .then(|| seconds.trim().trim_matches('"').parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_states_counts_a_little_less() {
        for (stated, expected) in [
            ("timeout=5", seconds(4)),
            ("max=100, Timeout = 75", seconds(74)),
            ("timeout=1", Duration::from_millis(500)),
            ("timeout=0", Duration::ZERO),
            ("timeout=99999999999", seconds(599)),
            ("timeout=soon", DEFAULT_IDLE),
            ("max=5", DEFAULT_IDLE),
            ("", DEFAULT_IDLE),
        ] {
            let limit = IdleLimit::new(DEFAULT_IDLE);
            let header = (
                http::HeaderName::from_static("keep-alive"),
                HeaderValue::from_static(stated),
            );
            limit.answered(&HeaderMap::from_iter([header]));
            assert_eq!(limit.current(), expected, "{stated}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_was_seen_to_do_counts_for_a_while() {
        let limit = IdleLimit::new(DEFAULT_IDLE);
        limit.closed_after(seconds(6));
        assert_eq!(limit.current(), seconds(4));
        limit.closed_after(seconds(50));
        assert_eq!(limit.current(), seconds(4), "the shortest counts");
        limit.closed_after(Duration::ZERO);
        assert_eq!(limit.current(), MIN_IDLE);
        tokio::time::advance(REMEMBERED_FOR).await;
        assert_eq!(limit.current(), DEFAULT_IDLE);
    }
}
