//! Tool calls of one server: whether those that LiteLLM answers to users also come to the outbound half. Those that do
//! not went to another server of the same name, as one in LiteLLM's database, past the sidecar and without a token.
//!
//! One answer alone shows little: LiteLLM may have made it up itself. So many in a row without a single call of anybody's
//! to the server are enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mcp_auth_protocol::sync::{Problem, notices};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::McpServer;

/// So many answers in a row without a call are enough to say that they come from elsewhere.
const ENOUGH_ANSWERS: u64 = 10;

/// Kept for as long as a server of the name is in the table.
pub struct ToolCalls {
    began: Instant,
    /// When the last one came to the outbound half, in microseconds since the beginning; 0 for never.
    last_came: AtomicU64,
    /// Answers in a row without one.
    missed: AtomicU64,
    counter: Counter,
}

impl ToolCalls {
    pub fn new(counter: Counter) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_came: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            counter,
        })
    }

    /// A call comes to the outbound half.
    pub fn came(&self) {
        self.last_came
            .store(self.since_beginning(Instant::now()), Ordering::Relaxed);
        self.missed.store(0, Ordering::Relaxed);
    }

    /// LiteLLM has answered a user's call that it got at `started`, if `is_good` with what the tool said. The answer is
    /// looked at only where no call came meanwhile.
    pub fn answered(&self, started: Instant, is_good: impl FnOnce() -> bool) {
        let has_come = self.last_came.load(Ordering::Relaxed) >= self.since_beginning(started);
        if !has_come && is_good() {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.counter.inc();
        }
    }

    /// Without a number, so that the same is not reported again with each call.
    pub fn notice(&self, server: &McpServer) -> Option<Problem> {
        if self.missed.load(Ordering::Relaxed) < ENOUGH_ANSWERS {
            return None;
        }
        let (name, resource) = (&server.name, &server.resource);
        let message = format!(
            "LiteLLM answers tool calls for {name}, and none of them comes to the sidecar: another server called {name}, as \
             one in LiteLLM's database, is called instead of that of McpServerAuth {resource}, without its token. Remove it \
             in LiteLLM's UI, or by DELETE /v1/mcp/server/ID"
        );
        Some(Problem::new(notices::CALLS_PAST_SIDECAR, message).for_server(&**name))
    }

    /// Never 0.
    fn since_beginning(&self, time: Instant) -> u64 {
        let elapsed = time.saturating_duration_since(self.began);
        u64::try_from(elapsed.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn is_told(calls: &ToolCalls) -> bool {
        calls.missed.load(Ordering::Relaxed) >= ENOUGH_ANSWERS
    }

    fn answer(calls: &ToolCalls, comes: bool, is_good: bool) {
        let started = Instant::now();
        if comes {
            calls.came();
        }
        calls.answered(started, || is_good);
    }

    #[tokio::test(start_paused = true)]
    async fn many_answers_in_a_row_without_a_call_are_told_until_one_comes() {
        let calls = ToolCalls::new(Counter::default());
        for _ in 0..ENOUGH_ANSWERS - 1 {
            tokio::time::advance(Duration::from_millis(1)).await;
            answer(&calls, false, true);
        }
        answer(&calls, false, false);
        assert!(!is_told(&calls), "a failed one shows nothing");
        answer(&calls, false, true);
        assert!(is_told(&calls));
        assert_eq!(calls.counter.get(), ENOUGH_ANSWERS);
        tokio::time::advance(Duration::from_millis(1)).await;
        answer(&calls, true, true);
        assert!(!is_told(&calls));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_no_user_made_at_the_mcp_endpoint_ends_the_notice_too() {
        let calls = ToolCalls::new(Counter::default());
        for _ in 0..ENOUGH_ANSWERS {
            tokio::time::advance(Duration::from_millis(1)).await;
            answer(&calls, false, true);
        }
        assert!(is_told(&calls));
        calls.came();
        assert!(!is_told(&calls));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_somebody_else_that_came_meanwhile_counts_for_an_answer() {
        let calls = ToolCalls::new(Counter::default());
        for _ in 0..3 * ENOUGH_ANSWERS {
            answer(&calls, true, true);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(!is_told(&calls));
    }
}
