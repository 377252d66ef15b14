//! Reachability of one MCP server, as calls and connection checks find it. Most answers change nothing: for those it
//! is one comparison.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_resilience::exponential;
use parking_lot::Mutex;
use rustls::CertificateError;
use tokio::time::Instant;

use crate::http::connect::ConnectError;
use crate::http::egress_proxy::TunnelError;
use crate::http::transport::TransportError;
use crate::http::upstream::UpstreamError;
use crate::proxy::clock::unix_now;

/// A server that answered is unreachable only after so many calls in a row that it did not answer: one may have met
/// it in the middle of a restart.
const MAX_UNANSWERED: u32 = 3;
/// First and longest wait between two connection checks that fail.
const CHECK_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a server that was reached may be silent before a connection tells whether it is still there. Of a server
/// that answers calls none is opened.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Longest detail that is reported.
const MAX_DETAIL_BYTES: usize = 200;

pub struct ReachabilityRecord {
    /// Whether the state is [`Reachability::Answered`] and no call since was left without an answer.
    is_answering: AtomicBool,
    /// Whether an answer came since this was last looked at.
    has_answered: AtomicBool,
    entry: Mutex<Entry>,
}

struct Entry {
    state: Reachability,
    since: i64,
    detail: String,
    /// Calls in a row without an answer.
    unanswered: u32,
    /// Connection checks in a row that failed.
    failed_checks: u32,
    /// Before this no connection is checked.
    next_check: Instant,
    is_checking: bool,
}

/// What the head of an answer says of the server, apart from the token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AnswerKind {
    Answered,
    Unavailable,
    HostNotServed,
    PathNotFound,
}

impl Default for ReachabilityRecord {
    fn default() -> Self {
        Self {
            is_answering: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            entry: Mutex::new(Entry {
                state: Reachability::NotContacted,
                since: unix_now(),
                detail: String::new(),
                unanswered: 0,
                failed_checks: 0,
                next_check: Instant::now(),
                is_checking: false,
            }),
        }
    }
}

impl ReachabilityRecord {
    /// An answer came. `begins_session`: to a request at the endpoint itself, without a session that could have
    /// ended.
    pub fn record_answer(&self, status: StatusCode, begins_session: bool) {
        let kind = answer_kind(status, begins_session);
        // Read first: a write would take the cache line from the other threads with each answer.
        if !self.has_answered.load(Ordering::Relaxed) {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        if kind == AnswerKind::Answered && self.is_answering.load(Ordering::Relaxed) {
            return;
        }
        let mut entry = self.entry.lock();
        let detail = || format!("it answers {}", status.as_u16());
        match kind {
            AnswerKind::Answered => {
                entry.unanswered = 0;
                entry.set(Reachability::Answered, String::new());
            }
            AnswerKind::Unavailable => entry.count_unanswered(Reachability::Unavailable, detail()),
            AnswerKind::HostNotServed => entry.set(Reachability::HostNotServed, detail()),
            AnswerKind::PathNotFound => entry.set(Reachability::PathNotFound, detail()),
        }
        self.is_answering.store(
            entry.state == Reachability::Answered && entry.unanswered == 0,
            Ordering::Relaxed,
        );
    }

    /// A call got no answer. One whose own body failed says nothing of the server.
    pub fn record_failure(&self, error: &UpstreamError) {
        if error.body_error().is_some() {
            return;
        }
        let mut entry = self.entry.lock();
        match error {
            UpstreamError::Connect(error) => {
                let (state, detail) = of_connection(error);
                entry.set(state, detail);
            }
            UpstreamError::Http(_) | UpstreamError::Timeout => {
                entry.count_unanswered(Reachability::NoAnswer, error.in_full().into());
            }
        }
        self.is_answering.store(false, Ordering::Relaxed);
    }

    /// Whether a connection is to be opened now, to find out whether the server takes any: where no call has come to
    /// it yet, where the last connection failed, and where it was reached and has been silent since. Answered by
    /// [`ReachabilityRecord::record_check`].
    pub fn begin_check(&self, now: Instant) -> bool {
        let mut entry = self.entry.lock();
        let is_worth_it = entry.state.is_reachable() != Some(false) || entry.state.is_of_connection();
        if !is_worth_it || entry.is_checking || now < entry.next_check {
            return false;
        }
        if entry.is_reached() && self.has_answered.swap(false, Ordering::Relaxed) {
            entry.next_check = now + MAX_SILENCE;
            return false;
        }
        entry.is_checking = true;
        true
    }

    /// What a connection that was opened for its own sake has shown.
    pub fn record_check(&self, result: Result<(), &ConnectError>) {
        let mut entry = self.entry.lock();
        entry.is_checking = false;
        let is_first_contact = entry.state == Reachability::NotContacted;
        // Calls may have shown meanwhile that it is there.
        let was_silent = entry.is_reached() && !self.has_answered.load(Ordering::Relaxed);
        match result {
            Ok(()) => {
                entry.failed_checks = 0;
                entry.next_check = Instant::now() + MAX_SILENCE;
                // Calls may have shown more meanwhile.
                if is_first_contact || entry.state.is_of_connection() {
                    entry.set(Reachability::Connected, String::new());
                }
            }
            Err(error) => {
                let wait = exponential(CHECK_BACKOFF.0, entry.failed_checks, CHECK_BACKOFF.1);
                entry.failed_checks = entry.failed_checks.saturating_add(1);
                entry.next_check = Instant::now() + wait;
                // In the first second of a pod its network may not be there yet, and a server may be restarting.
                let is_confirmed = entry.failed_checks > 1;
                if (is_first_contact || was_silent) && is_confirmed || entry.state.is_of_connection() {
                    let (state, detail) = of_connection(error);
                    entry.set(state, detail);
                    self.is_answering.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    pub fn report(&self, server: &str) -> ServerReachability {
        let entry = self.entry.lock();
        ServerReachability {
            server: server.to_owned(),
            state: entry.state,
            since: entry.since,
            detail: entry.detail.clone(),
        }
    }
}

impl Entry {
    /// The same state again keeps its beginning and its detail.
    fn set(&mut self, state: Reachability, mut detail: String) {
        if self.state != state {
            detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
            self.state = state;
            self.since = unix_now();
            self.detail = detail;
            self.failed_checks = 0;
            let wait = match self.is_reached() {
                true => MAX_SILENCE,
                false => CHECK_BACKOFF.0,
            };
            self.next_check = Instant::now() + wait;
        }
    }

    fn is_reached(&self) -> bool {
        self.state.is_reachable() == Some(true)
    }

    fn count_unanswered(&mut self, state: Reachability, detail: String) {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.state != Reachability::Answered || self.unanswered >= MAX_UNANSWERED {
            self.set(state, detail);
        }
    }
}

fn answer_kind(status: StatusCode, begins_session: bool) -> AnswerKind {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            AnswerKind::Unavailable
        }
        StatusCode::MISDIRECTED_REQUEST => AnswerKind::HostNotServed,
        StatusCode::NOT_FOUND if begins_session => AnswerKind::PathNotFound,
        _ => AnswerKind::Answered,
    }
}

fn of_connection(error: &ConnectError) -> (Reachability, String) {
    let detail = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let state = match error {
        ConnectError::Transport(TransportError::Resolve(_)) => Reachability::NameNotResolved,
        ConnectError::Transport(TransportError::Connect(error))
            if error.kind() == io::ErrorKind::TimedOut =>
        {
            Reachability::ConnectionTimedOut
        }
        ConnectError::Transport(TransportError::Connect(_) | TransportError::Forbidden(_)) => {
            Reachability::ConnectionFailed
        }
        ConnectError::Timeout => Reachability::ConnectionTimedOut,
        ConnectError::Transport(TransportError::Tls(error)) => of_handshake(error),
        ConnectError::Tunnel(TunnelError::Unreachable(_)) => Reachability::ProxyUnreachable,
        ConnectError::Tunnel(_) => Reachability::ProxyRefused,
    };
    (state, detail)
}

fn of_handshake(error: &io::Error) -> Reachability {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(cause)) = cause else {
        return Reachability::TlsFailed;
    };
    match cause {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Reachability::CertificateForOtherHost
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Reachability::CertificateExpired,
        _ => Reachability::CertificateNotTrusted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::http1::Http1Error;
    use crate::http::idle_timeout::BodyError;

    fn refused() -> ConnectError {
        TransportError::Connect(io::ErrorKind::ConnectionRefused.into()).into()
    }

    fn state(record: &ReachabilityRecord) -> Reachability {
        record.report("tools").state
    }

    #[tokio::test]
    async fn a_server_that_answered_is_unreachable_after_three_calls_without_an_answer() {
        let record = ReachabilityRecord::default();
        assert_eq!(state(&record), Reachability::NotContacted);
        record.record_answer(StatusCode::OK, true);
        for _ in 0..2 {
            record.record_answer(StatusCode::SERVICE_UNAVAILABLE, true);
            record.record_failure(&UpstreamError::Timeout);
            assert_eq!(state(&record), Reachability::Answered);
            record.record_answer(StatusCode::UNAUTHORIZED, true);
        }
        for _ in 0..3 {
            record.record_failure(&UpstreamError::Timeout);
        }
        assert_eq!(state(&record), Reachability::NoAnswer);
        record.record_answer(StatusCode::BAD_REQUEST, false);
        assert_eq!(state(&record), Reachability::Answered);
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_understood_is_named_and_a_broken_body_is_no_fault_of_the_server() {
        let record = ReachabilityRecord::default();
        record.record_answer(StatusCode::OK, true);
        let http = |error: Http1Error| UpstreamError::Http(error.into());
        for _ in 0..3 {
            let body = BodyError::IdleTimeout(Duration::from_secs(30));
            record.record_failure(&http(Http1Error::RequestBody(body)));
        }
        assert_eq!(state(&record), Reachability::Answered);
        for _ in 0..3 {
            record.record_failure(&http(Http1Error::HeadTooLarge));
        }
        assert_eq!(state(&record), Reachability::NoAnswer);
        assert_eq!(
            record.report("tools").detail,
            "its answer cannot be understood: the head of an answer is too long, or has too many fields"
        );
        let ended = http(Http1Error::Incomplete).in_full();
        assert!(
            ended.starts_with("the connection ended before an answer"),
            "{ended}"
        );
    }

    #[tokio::test]
    async fn an_ended_session_is_no_wrong_path() {
        let record = ReachabilityRecord::default();
        record.record_answer(StatusCode::NOT_FOUND, false);
        assert_eq!(state(&record), Reachability::Answered);
        record.record_answer(StatusCode::NOT_FOUND, true);
        assert_eq!(state(&record), Reachability::PathNotFound);
        assert_eq!(record.report("tools").detail, "it answers 404");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connection_is_tried_again_at_growing_intervals_until_it_opens() {
        let record = ReachabilityRecord::default();
        record.record_answer(StatusCode::OK, true);
        assert!(!record.begin_check(Instant::now()), "calls say enough");
        record.record_failure(&UpstreamError::Connect(refused()));
        assert_eq!(state(&record), Reachability::ConnectionFailed);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let before = Instant::now();
            while !record.begin_check(Instant::now()) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            assert!(!record.begin_check(Instant::now()), "one at a time");
            waits.push(before.elapsed().as_secs());
            record.record_check(Err(&refused()));
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        record.record_check(Ok(()));
        assert_eq!(state(&record), Reachability::Connected);
        assert!(!record.begin_check(Instant::now() + Duration::from_secs(59)));
    }

    /// When connections are checked within this time, in seconds from its beginning.
    async fn checks_within(
        record: &ReachabilityRecord,
        seconds: u64,
        result: &Result<(), ConnectError>,
    ) -> Vec<u64> {
        let begin = Instant::now();
        let mut checks = Vec::new();
        while begin.elapsed() < Duration::from_secs(seconds) {
            if record.begin_check(Instant::now()) {
                checks.push(begin.elapsed().as_secs());
                record.record_check(result.as_ref().copied());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        checks
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_away_while_nobody_calls_it_is_known_to_be_gone() {
        let record = ReachabilityRecord::default();
        record.record_answer(StatusCode::OK, true);
        let there = checks_within(&record, 600, &Ok(())).await;
        assert_eq!(
            there.len(),
            8,
            "one a minute, once it has been silent for that long: {there:?}"
        );
        assert_eq!(
            state(&record),
            Reachability::Answered,
            "a connection says less than answers did"
        );

        let gone = checks_within(&record, 61, &Err(refused())).await;
        assert_eq!(state(&record), Reachability::ConnectionFailed, "{gone:?}");
        assert!(gone.len() >= 2, "one failure is no proof: {gone:?}");
        // An answer is the end of it at once, though there were answers before.
        record.record_answer(StatusCode::OK, true);
        assert_eq!(state(&record), Reachability::Answered);
    }

    #[tokio::test(start_paused = true)]
    async fn no_connection_is_opened_to_a_server_that_answers_calls() {
        let record = ReachabilityRecord::default();
        for _ in 0..60 {
            record.record_answer(StatusCode::OK, true);
            let checks = checks_within(&record, 30, &Err(refused())).await;
            assert_eq!(checks, [0; 0]);
        }
        assert_eq!(state(&record), Reachability::Answered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_restarts_while_nobody_calls_it_is_not_gone() {
        let record = ReachabilityRecord::default();
        record.record_answer(StatusCode::OK, true);
        let mut checks = 0;
        for second in 0..1200 {
            if record.begin_check(Instant::now()) {
                checks += 1;
                // Every second connection meets a restart.
                let refused = refused();
                record.record_check(if checks % 2 == 0 { Err(&refused) } else { Ok(()) });
            }
            assert_eq!(state(&record), Reachability::Answered, "after {second} s");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(checks > 15, "{checks}");
    }

    #[tokio::test]
    async fn the_first_failure_of_a_pod_that_has_just_started_is_looked_at_twice() {
        let record = ReachabilityRecord::default();
        record.record_check(Err(&refused()));
        assert_eq!(state(&record), Reachability::NotContacted);
        record.record_check(Err(&refused()));
        assert_eq!(state(&record), Reachability::ConnectionFailed);
    }

    #[tokio::test]
    async fn what_calls_have_shown_meanwhile_outweighs_a_connection_check() {
        let record = ReachabilityRecord::default();
        assert!(record.begin_check(Instant::now()));
        record.record_answer(StatusCode::OK, true);
        record.record_check(Err(&refused()));
        assert_eq!(state(&record), Reachability::Answered);
        record.record_check(Ok(()));
        assert_eq!(state(&record), Reachability::Answered);
    }

    #[test]
    fn a_certificate_says_what_is_wrong_with_it() {
        let state = |cause| of_handshake(&io::Error::other(rustls::Error::InvalidCertificate(cause)));
        assert_eq!(
            state(CertificateError::UnknownIssuer),
            Reachability::CertificateNotTrusted
        );
        assert_eq!(
            state(CertificateError::NotValidForName),
            Reachability::CertificateForOtherHost
        );
        assert_eq!(state(CertificateError::Expired), Reachability::CertificateExpired);
        assert_eq!(
            of_handshake(&io::ErrorKind::UnexpectedEof.into()),
            Reachability::TlsFailed
        );
    }
}
