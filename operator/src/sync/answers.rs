//! Answers: whether a sidecar that has said nothing for a while is still there. Its connection stands whether it reads or not
//! where its process is stopped, since the kernel acknowledges for it, and where a proxy ends TCP in between.

use axum::body::Bytes;
use mcp_auth_protocol::sync::{Capability, QUESTION, Report};
use mcp_auth_protocol::timeouts::SYNC_SILENCE;
use std::time::Duration;
use tokio::time::Instant;

/// A sidecar that has not answered within this time is disconnected: it is as long as a sidecar waits for the operator.
const ANSWER_TIMEOUT: Duration = SYNC_SILENCE;

/// What was heard of one sidecar, and asked of it.
pub struct Answers {
    /// Nothing for this long, and it is asked. `None`: it is too old to answer.
    ask_after: Option<Duration>,
    heard_at: Instant,
    asked_at: Option<Instant>,
}

impl Answers {
    /// Of a sidecar whose first report came now.
    pub fn of(first: &Report, ask_after: Duration, now: Instant) -> Self {
        let answers = first.capabilities.contains(&Capability::Answers);
        Self {
            ask_after: answers.then_some(ask_after),
            heard_at: now,
            asked_at: None,
        }
    }

    /// A line came, whatever it says.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked_at = None;
    }

    /// The line of a heartbeat: empty, or the question where it is time for one. `None`: it was asked, and does not answer.
    pub fn next_line(&mut self, now: Instant) -> Option<Bytes> {
        const HEARTBEAT_LINE: Bytes = Bytes::from_static(b"\n");
        let Some(ask_after) = self.ask_after else {
            return Some(HEARTBEAT_LINE);
        };
        match self.asked_at {
            Some(asked_at) => (now - asked_at < ANSWER_TIMEOUT).then_some(HEARTBEAT_LINE),
            None if now - self.heard_at < ask_after => Some(HEARTBEAT_LINE),
            None => {
                self.asked_at = Some(now);
                Some(Bytes::from(format!("{QUESTION}\n")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK_AFTER: Duration = Duration::from_secs(300);

    fn report(capabilities: &[Capability]) -> Report {
        Report {
            capabilities: capabilities.to_vec(),
            ..Report::default()
        }
    }

    /// The lines of heartbeats at these seconds, each named by what it is.
    fn lines(answers: &mut Answers, began: Instant, seconds: &[u64]) -> Vec<&'static str> {
        let line = |second: &u64| match answers.next_line(began + Duration::from_secs(*second)) {
            Some(line) if line == "\n" => "heartbeat",
            Some(line) if line == "?\n" => "question",
            Some(_) => "something else",
            None => "gone",
        };
        seconds.iter().map(line).collect()
    }

    #[test]
    fn who_says_nothing_is_asked_once_in_five_minutes_and_given_up_three_heartbeats_later() {
        let began = Instant::now();
        let mut answers = Answers::of(&report(&[Capability::Answers]), ASK_AFTER, began);
        let said = lines(&mut answers, began, &[15, 285, 300, 315, 344, 345]);
        assert_eq!(
            said,
            [
                "heartbeat",
                "heartbeat",
                "question",
                "heartbeat",
                "heartbeat",
                "gone"
            ]
        );
    }

    #[test]
    fn whatever_is_heard_is_an_answer_and_who_speaks_is_not_asked() {
        let began = Instant::now();
        let mut answers = Answers::of(&report(&[Capability::Answers]), ASK_AFTER, began);
        answers.heard(began + Duration::from_secs(200));
        assert_eq!(lines(&mut answers, began, &[495, 510]), ["heartbeat", "question"]);
        answers.heard(began + Duration::from_secs(511));
        assert_eq!(
            lines(&mut answers, began, &[555, 600, 815]),
            ["heartbeat", "heartbeat", "question"]
        );
    }

    #[test]
    fn a_sidecar_that_is_too_old_to_answer_is_never_asked() {
        let began = Instant::now();
        let mut answers = Answers::of(&report(&[Capability::Deltas]), ASK_AFTER, began);
        assert_eq!(
            lines(&mut answers, began, &[300, 1800]),
            ["heartbeat", "heartbeat"]
        );
    }
}
