//! Context checks that are under way: which requests went to MCP servers with the value that a check made for it. The
//! outbound half notes them while there is a check, the health port tells them to whoever makes the check.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, COOKIE, HeaderMap};
use mcp_auth_protocol::context_check::{CheckValue, SentRequest, SentRequests};
use parking_lot::Mutex;

/// Most checks at a time. For one more the oldest ends.
const MAX_CHECKS: usize = 8;
/// Most requests that one check tells of: LiteLLM lists tools in three.
const MAX_REQUESTS: usize = 32;
/// How long a check goes on after its beginning.
const CHECK_LIFETIME: Duration = Duration::from_secs(120);

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct ContextChecks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Number of checks, so that requests need no lock while there is none.
    active: AtomicUsize,
    checks: Mutex<VecDeque<Check>>,
}

#[derive(Debug)]
struct Check {
    value: CheckValue,
    began: Instant,
    requests: Vec<SentRequest>,
}

/// What a request to an MCP server has of a check's value.
#[derive(Debug, Eq, PartialEq)]
pub struct Carried {
    value: CheckValue,
    cookies: Vec<String>,
    headers: Vec<String>,
    authorized: bool,
}

impl ContextChecks {
    /// What was sent with the value so far. The first time it begins the check.
    pub fn ask(&self, value: CheckValue) -> SentRequests {
        self.ask_at(value, Instant::now())
    }

    /// What the headers of a request have of the value of a check that is under way.
    pub fn carried(&self, headers: &HeaderMap) -> Option<Box<Carried>> {
        match self.0.active.load(Ordering::Relaxed) {
            0 => None,
            // Boxed: nearly every request waits for its answer without one.
            _ => self.find(headers, Instant::now()).map(Box::new),
        }
    }

    /// Tells the check of a request that was sent. `status`: how it was answered.
    pub fn record(
        &self,
        carried: Carried,
        request: String,
        server: &str,
        method: Option<String>,
        status: Option<u16>,
    ) {
        let mut checks = self.0.checks.lock();
        let check = checks.iter_mut().find(|check| check.value == carried.value);
        if let Some(check) = check.filter(|check| check.requests.len() < MAX_REQUESTS) {
            check.requests.push(SentRequest {
                request,
                server: server.to_owned(),
                method,
                cookies: carried.cookies,
                headers: carried.headers,
                authorized: carried.authorized,
                status,
            });
        }
    }

    fn ask_at(&self, value: CheckValue, now: Instant) -> SentRequests {
        let mut checks = self.0.checks.lock();
        self.end_old(&mut checks, now);
        if let Some(check) = checks.iter().find(|check| check.value == value) {
            return SentRequests {
                requests: check.requests.clone(),
            };
        }
        if checks.len() == MAX_CHECKS {
            checks.pop_front();
        }
        checks.push_back(Check {
            value,
            began: now,
            requests: Vec::new(),
        });
        self.0.active.store(checks.len(), Ordering::Relaxed);
        SentRequests::default()
    }

    #[cold]
    fn find(&self, headers: &HeaderMap, now: Instant) -> Option<Carried> {
        let mut checks = self.0.checks.lock();
        self.end_old(&mut checks, now);
        checks
            .iter()
            .find_map(|check| Carried::find(&check.value, headers))
    }

    fn end_old(&self, checks: &mut VecDeque<Check>, now: Instant) {
        checks.retain(|check| now.saturating_duration_since(check.began) < CHECK_LIFETIME);
        self.0.active.store(checks.len(), Ordering::Relaxed);
    }
}

impl Carried {
    fn find(value: &CheckValue, headers: &HeaderMap) -> Option<Self> {
        let value_bytes = value.as_str().as_bytes();
        let mut cookies: Vec<String> = headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|field| field.as_bytes().split(|byte| *byte == b';'))
            .filter_map(|pair| {
                let pair = pair.trim_ascii();
                let at = pair.iter().position(|byte| *byte == b'=')?;
                let is_found = &pair[at + 1..] == value_bytes;
                is_found.then(|| String::from_utf8_lossy(&pair[..at]).into_owned())
            })
            .collect();
        cookies.sort_unstable();
        let mut names: Vec<String> = headers
            .iter()
            .filter(|(_, field)| field.as_bytes() == value_bytes)
            .map(|(name, _)| name.as_str().to_owned())
            .collect();
        names.sort_unstable();
        if cookies.is_empty() && names.is_empty() {
            return None;
        }
        Some(Self {
            value: value.clone(),
            cookies,
            headers: names,
            authorized: headers.contains_key(AUTHORIZATION),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn value(number: u8) -> CheckValue {
        CheckValue::new([number; 16])
    }

    fn sent_by(number: u8) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let text = |text: String| HeaderValue::from_str(&text).unwrap();
        let value = value(number);
        headers.insert(
            COOKIE,
            text(format!("lb=1; session_id={value}; a={value}; b=x{value}")),
        );
        headers.insert("x-forwarded-user", text(value.to_string()));
        headers.insert("x-other", HeaderValue::from_static("1"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer t"));
        headers
    }

    fn record(checks: &ContextChecks, headers: &HeaderMap, status: Option<u16>) {
        if let Some(carried) = checks.carried(headers) {
            checks.record(
                *carried,
                "9c11".into(),
                "tools",
                Some("tools/list".into()),
                status,
            );
        }
    }

    #[test]
    fn a_check_tells_of_the_requests_with_its_value_and_of_no_others() {
        let checks = ContextChecks::default();
        record(&checks, &sent_by(1), Some(200));
        assert_eq!(checks.ask(value(1)), SentRequests::default(), "it begins here");
        checks.ask(value(2));
        record(&checks, &sent_by(3), Some(200));
        record(&checks, &sent_by(1), Some(200));
        record(&checks, &sent_by(1), None);
        let sent = checks.ask(value(1)).requests;
        let expected = SentRequest {
            request: "9c11".into(),
            server: "tools".into(),
            method: Some("tools/list".into()),
            cookies: vec!["a".into(), "session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            authorized: true,
            status: Some(200),
        };
        let unanswered = SentRequest {
            status: None,
            ..expected.clone()
        };
        assert_eq!(sent, [expected, unanswered]);
        assert_eq!(checks.ask(value(2)), SentRequests::default());
    }

    #[test]
    fn checks_and_what_they_keep_are_bounded_and_end_by_themselves() {
        let checks = ContextChecks::default();
        for number in 0..100 {
            checks.ask(value(number));
        }
        assert_eq!(checks.0.active.load(Ordering::Relaxed), MAX_CHECKS);
        for _ in 0..100 {
            record(&checks, &sent_by(99), Some(200));
        }
        assert_eq!(checks.ask(value(99)).requests.len(), MAX_REQUESTS);
        let later = Instant::now() + CHECK_LIFETIME;
        assert_eq!(checks.find(&sent_by(99), later), None);
        assert_eq!(
            checks.carried(&sent_by(99)),
            None,
            "nothing is looked for any more"
        );
        assert_eq!(checks.0.active.load(Ordering::Relaxed), 0);
    }
}
