//! Idle limit: how long a connection to one server may wait for its next request. Servers close theirs after a time of
//! their own, and a request that is sent at that moment is lost; so the limit stays below that time, as far as it is
//! known: the server states it (`Keep-Alive: timeout=5`), or was seen to close connections twice after the same time.

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
/// Its time may have been changed since, so that is forgotten again.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Connections that were closed after times this close to each other were closed after the same time: that is looked at
/// each second.
const SAME_TIME: Duration = Duration::from_millis(1500);
/// Closes this close to each other have one cause, as those of a restart that two sweeps find.
const ONE_CAUSE: Duration = Duration::from_secs(2);

pub struct IdleLimit {
    default: Duration,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    stated: Option<Duration>,
    /// And until when that is remembered.
    seen: Option<(Duration, Instant)>,
    /// How long those that were closed last had waited, and when that was. `None` for the former: for different times, as
    /// at a restart.
    last_close: Option<(Option<Duration>, Instant)>,
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
        let seen = seen.map(|(limit, _)| limit.min(self.default));
        known.stated.or(seen).unwrap_or(self.default)
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

    /// The server has closed connections, all found at once, that had waited from `shortest` to `longest`. It may have
    /// restarted, so it is believed to have a time of its own only from the second such close after the same time.
    pub fn closed_after(&self, shortest: Duration, longest: Duration) {
        let waited = (longest - shortest <= SAME_TIME).then_some(shortest);
        let now = Instant::now();
        let mut known = self.known.lock();
        let previous = known.last_close.replace((waited, now));
        let Some((previous, at)) = previous.filter(|(_, at)| now - *at < REMEMBERED_FOR) else {
            return;
        };
        if now - at < ONE_CAUSE {
            // It counts once, and not at all if they had waited for different times.
            let is_same = is_same_time(previous, waited);
            known.last_close = Some((previous.filter(|_| is_same), at));
            return;
        }
        if !is_same_time(previous, waited) {
            return;
        }
        let limit = shortest.saturating_sub(SEEN_MARGIN).max(MIN_IDLE);
        let before = known.seen.filter(|(_, until)| now < *until);
        if before.is_none_or(|(before, _)| limit <= before) {
            known.seen = Some((limit, now + REMEMBERED_FOR));
        }
    }
}

fn is_same_time(one: Option<Duration>, other: Option<Duration>) -> bool {
    one.zip(other)
        .is_some_and(|(one, other)| one.abs_diff(other) <= SAME_TIME)
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

    async fn close(limit: &IdleLimit, shortest: Duration, longest: Duration) {
        tokio::time::advance(seconds(20)).await;
        limit.closed_after(shortest, longest);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_was_seen_to_do_twice_counts_for_a_while() {
        let limit = IdleLimit::new(DEFAULT_IDLE);
        close(&limit, seconds(6), seconds(6)).await;
        assert_eq!(limit.current(), DEFAULT_IDLE, "it may have restarted");
        close(&limit, seconds(6), seconds(7)).await;
        assert_eq!(limit.current(), seconds(4));
        for _ in 0..2 {
            close(&limit, seconds(50), seconds(50)).await;
        }
        assert_eq!(limit.current(), seconds(4), "the shortest counts");
        for _ in 0..2 {
            close(&limit, Duration::ZERO, Duration::ZERO).await;
        }
        assert_eq!(limit.current(), MIN_IDLE);
        tokio::time::advance(REMEMBERED_FOR).await;
        assert_eq!(limit.current(), DEFAULT_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_no_time_of_the_servers_own() {
        let limit = IdleLimit::new(DEFAULT_IDLE);
        for _ in 0..3 {
            close(&limit, seconds(2), seconds(40)).await;
        }
        assert_eq!(limit.current(), DEFAULT_IDLE, "each had waited for another time");
        close(&limit, seconds(6), seconds(6)).await;
        close(&limit, seconds(30), seconds(30)).await;
        assert_eq!(limit.current(), DEFAULT_IDLE);
        // Found by two looks.
        close(&limit, seconds(9), seconds(9)).await;
        tokio::time::advance(seconds(1)).await;
        limit.closed_after(seconds(9), seconds(9));
        assert_eq!(limit.current(), DEFAULT_IDLE, "they count once");
        // Many connections end one after another, each at the server's own time.
        tokio::time::advance(seconds(1)).await;
        limit.closed_after(seconds(9), seconds(9));
        assert_eq!(limit.current(), seconds(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_states_counts_more_than_what_it_was_seen_to_do() {
        let limit = IdleLimit::new(DEFAULT_IDLE);
        for _ in 0..2 {
            close(&limit, seconds(5), seconds(5)).await;
        }
        let header = (KEEP_ALIVE, HeaderValue::from_static("timeout=60"));
        limit.answered(&HeaderMap::from_iter([header]));
        assert_eq!(limit.current(), seconds(59));
    }
}
