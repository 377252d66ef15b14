//! The task of a token source: it makes the request that `lifecycle` decided for, waits for what comes next,
//! and tells the subscribers.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::lifecycle::TokenLifecycle;
use crate::clock::time_before;
use crate::renewal::deadline::Deadline;
use crate::token_request::{IssuedToken, TokenRequestFuture, TokenRequester, with_deadline};
use crate::{Clock, Error, Policy, TokenSourceState};

/// What the handle tells its task.
pub(super) enum Command {
    Replace(Arc<dyn TokenRequester>),
    SetPolicy(Policy),
    Rejected(String),
    DemandScopes { token_id: String, scopes: Vec<String> },
    RetainStepUpScopes(Vec<String>),
}

pub(super) struct SourceTask {
    requester: Arc<dyn TokenRequester>,
    clock: Clock,
    lifecycle: TokenLifecycle,
    in_flight: Option<RunningRequest>,
    deadlines: Deadlines,
    state: watch::Sender<TokenSourceState>,
}

/// The request under way.
struct RunningRequest {
    sent_at: Timestamp,
    timer: Instant,
    outcome: TokenRequestFuture<'static>,
}

/// What is waited for, by wall clock and timer.
struct Deadlines {
    attempt: Option<Deadline>,
    /// Kept while a demand brings the attempt forward: it may have been set before the clock was.
    renewal: Option<Deadline>,
    expiry: Option<Deadline>,
    probation: Option<Deadline>,
}

impl SourceTask {
    pub fn new(
        requester: Arc<dyn TokenRequester>,
        lifecycle: TokenLifecycle,
        clock: Clock,
    ) -> (Self, watch::Receiver<TokenSourceState>) {
        let (state, subscription) = watch::channel(lifecycle.state().clone());
        let deadlines = Deadlines {
            attempt: None,
            renewal: None,
            expiry: None,
            probation: None,
        };
        let mut task = Self {
            requester,
            clock,
            lifecycle,
            in_flight: None,
            deadlines,
            state,
        };
        task.set_deadlines();
        (task, subscription)
    }

    /// Ends when the handle is gone.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Box<Command>>) {
        loop {
            let changed = tokio::select! {
                // In this order: a token that arrives in the moment the old one ends leaves no gap between
                // them.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.handle(*command),
                    None => return,
                },
                (sent_at, outcome) = completion(&mut self.in_flight, &self.clock) => {
                    self.in_flight = None;
                    self.deadlines.attempt = None;
                    self.lifecycle.finish_request(outcome, sent_at, self.clock.now());
                    true
                }
                () = wait_for(self.deadlines.expiry, &self.clock) => {
                    self.lifecycle.expire(self.clock.now());
                    true
                }
                () = wait_for(self.deadlines.probation, &self.clock) => {
                    self.lifecycle.end_probation();
                    true
                }
                () = wait_for(self.deadlines.attempt, &self.clock), if self.in_flight.is_none() => {
                    self.start_request();
                    false
                }
            };
            self.set_deadlines();
            self.state.send_if_modified(|state| {
                state.clone_from(self.lifecycle.state());
                changed
            });
        }
    }

    /// Whether that changed anything.
    fn handle(&mut self, command: Command) -> bool {
        let now = self.clock.now();
        match command {
            Command::Replace(requester) => {
                self.requester = requester;
                self.in_flight = None;
                self.lifecycle.replace(now);
                true
            }
            Command::SetPolicy(policy) => {
                self.lifecycle.set_policy(policy, now);
                true
            }
            Command::Rejected(token_id) => self.lifecycle.reject(&token_id, now),
            Command::DemandScopes { token_id, scopes } => {
                self.lifecycle.demand_scopes(&token_id, &scopes, now)
            }
            Command::RetainStepUpScopes(allowed) => self.lifecycle.retain_step_up_scopes(&allowed, now),
        }
    }

    fn start_request(&mut self) {
        let sent_at = self.clock.now();
        let (request, limit) = (self.lifecycle.start_request(sent_at), self.lifecycle.deadline());
        // Whatever has passed is spent. Where the clock was set back the next one may be due at the very same
        // time, and must not be taken for one that has passed already.
        self.deadlines.attempt = None;
        self.deadlines.renewal = self
            .deadlines
            .renewal
            .filter(|deadline| !deadline.has_passed(&self.clock));
        let requester = Arc::clone(&self.requester);
        self.in_flight = Some(RunningRequest {
            sent_at,
            timer: Instant::now(),
            outcome: Box::pin(async move { with_deadline(limit, requester.request(&request)).await }),
        });
    }

    fn set_deadlines(&mut self) {
        let state = self.lifecycle.state();
        self.deadlines.renewal = set(
            self.deadlines.renewal,
            Some(self.lifecycle.renewal_at()),
            &self.clock,
        );
        let of_renewal = |deadline: &Deadline| deadline.at == state.next_attempt_at;
        self.deadlines.attempt = match self.deadlines.renewal.filter(of_renewal) {
            Some(renewal) => Some(renewal),
            None => set(self.deadlines.attempt, Some(state.next_attempt_at), &self.clock),
        };
        let expires_at = state.token.as_ref().and_then(|token| token.expires_at);
        self.deadlines.expiry = set(self.deadlines.expiry, expires_at, &self.clock);
        self.deadlines.probation = set(
            self.deadlines.probation,
            self.lifecycle.probation_ends_at(),
            &self.clock,
        );
    }
}

/// The outcome of the request under way, and when that was sent: as the clock said then, or as it would have
/// said had it been set already to what it is now, whichever is earlier. Never, where there is none.
async fn completion(
    in_flight: &mut Option<RunningRequest>,
    clock: &Clock,
) -> (Timestamp, Result<IssuedToken, Error>) {
    match in_flight {
        Some(in_flight) => {
            let outcome = in_flight.outcome.as_mut().await;
            let sent_at = time_before(clock.now(), in_flight.timer.elapsed());
            (in_flight.sent_at.min(sent_at), outcome)
        }
        None => std::future::pending().await,
    }
}

async fn wait_for(deadline: Option<Deadline>, clock: &Clock) {
    match deadline {
        Some(deadline) => deadline.wait(clock).await,
        None => std::future::pending().await,
    }
}

/// The deadline for this moment; the one there was, if it is the same.
fn set(deadline: Option<Deadline>, at: Option<Timestamp>, clock: &Clock) -> Option<Deadline> {
    match (deadline, at) {
        (Some(deadline), Some(at)) if deadline.at == at => Some(deadline),
        (_, at) => at.map(|at| Deadline::at(at, clock)),
    }
}
