//! The life of a source's token, decided: what an event makes of the state, and when the next request is due. Knows
//! the time only as it is told, and makes no request.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::schedule;
use crate::renewal::breaker::Breaker;
use crate::renewal::rejection_backoff::Refusals;
use crate::renewal::step_up::{Demand, Miss, Step, Steps};
use crate::{Ask, Error, Failure, Issued, Policy, State, Token};

pub(super) struct Life {
    policy: Policy,
    state: State,
    breaker: Breaker,
    refusals: Refusals,
    steps: Steps,
    /// The request under way.
    flight: Option<Flight>,
    /// When the token in use is renewed if nobody demands it earlier.
    renewal_at: Timestamp,
    /// A client was given that has not brought a token yet.
    unproven: bool,
}

struct Flight {
    ask: Ask,
    /// It is made for scopes alone: the token in use is good otherwise.
    for_scopes: bool,
}

impl Life {
    /// Begins with a token that was issued before, if there is one that is not over.
    pub fn new(token: Option<Arc<Token>>, policy: Policy, now: Timestamp) -> Self {
        let token = token.filter(|token| !token.is_expired(now));
        let refresh_at = |token: &Arc<Token>| schedule::refresh_at(token, &policy, now);
        let renewal_at = token.as_ref().map_or(now, refresh_at);
        Self {
            policy,
            state: State::new(token, renewal_at),
            breaker: Breaker::default(),
            refusals: Refusals::default(),
            steps: Steps::default(),
            flight: None,
            renewal_at,
            unproven: false,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// When [`Life::trust`] is due.
    pub fn trusted_at(&self) -> Option<Timestamp> {
        self.refusals.trusted_at()
    }

    /// When the token in use is renewed if nobody demands it earlier.
    pub fn renewal_at(&self) -> Timestamp {
        self.renewal_at
    }

    pub fn deadline(&self) -> Duration {
        self.policy.deadline
    }

    /// A request is made now, for what this returns.
    pub fn depart(&mut self, now: Timestamp) -> Ask {
        let ask = Ask {
            scopes: self.steps.ask(),
            refusals_in_a_row: self.refusals.in_a_row,
        };
        let for_scopes = self.steps.is_pending() && self.is_good() && !self.unproven && now < self.renewal_at;
        self.flight = Some(Flight {
            ask: ask.clone(),
            for_scopes,
        });
        self.state.requests += 1;
        self.breaker.probe();
        self.tell();
        ask
    }

    /// The request that was sent at this time came to its end.
    pub fn settle(&mut self, outcome: Result<Issued, Error>, sent_at: Timestamp, now: Timestamp) {
        let flight = self.flight.take();
        let (asked, for_scopes) =
            flight.map_or_else(Default::default, |flight| (flight.ask.scopes, flight.for_scopes));
        match outcome.and_then(|issued| Token::issue(issued, sent_at, now)) {
            Ok(token) => self.succeed(token, &asked, for_scopes, now),
            Err(error) => self.fail(error, &asked, now),
        }
        self.tell();
    }

    /// The token in use is over.
    pub fn expire(&mut self, now: Timestamp) {
        tracing::warn!("token expired without a successor");
        self.state.token = None;
        self.refusals.lose();
        if self.breaker.failures == 0 {
            self.state.next_attempt_at = self.state.next_attempt_at.min(now);
        }
        self.tell();
    }

    /// The token in use is past its probation.
    pub fn trust(&mut self) {
        self.refusals.trust();
        self.tell();
    }

    /// Another client asks from now on, and at once. A request under way is given up.
    pub fn replace(&mut self, now: Timestamp) {
        self.flight = None;
        self.breaker.close();
        self.refusals.trust();
        self.steps.start_over();
        self.state.generation += 1;
        self.unproven = true;
        self.state.next_attempt_at = now;
        self.tell();
    }

    pub fn follow(&mut self, policy: Policy, now: Timestamp) {
        self.policy = policy;
        let Some(token) = &self.state.token else { return };
        self.renewal_at = schedule::refresh_at(token, &self.policy, now);
        // While a request is under way its outcome decides, and after a failure the backoff, which has not changed.
        if self.may_hasten() {
            self.state.next_attempt_at = self.due_at(now);
        }
    }

    /// A resource server refused the token of this id. Whether that changes anything.
    pub fn refuse(&mut self, token_id: &str, now: Timestamp) -> bool {
        if !self.is_in_use(token_id) || self.refusals.again_at().is_some() {
            return false;
        }
        let again_at = self.refusals.refuse(now, self.policy.random);
        tracing::info!(in_a_row = self.refusals.in_a_row, %again_at, "token refused by its resource server");
        if self.may_hasten() {
            self.state.next_attempt_at = self.due_at(now);
        }
        self.tell();
        true
    }

    /// A resource server demands scopes of the token of this id. Whether that changes anything.
    pub fn demand(&mut self, token_id: &str, scopes: &[String], now: Timestamp) -> bool {
        let Some(token) = self.state.token.as_ref().filter(|token| token.id == token_id) else {
            return false;
        };
        match self.steps.demand(scopes, token.scope.as_deref(), now) {
            Demand::Ignore => false,
            Demand::Refuse(step_up) if self.state.step_up == step_up => false,
            Demand::Refuse(step_up) => {
                self.state.step_up = step_up;
                true
            }
            Demand::Ask => {
                if self.may_hasten() {
                    self.state.next_attempt_at = self.due_at(now);
                }
                true
            }
        }
    }

    fn succeed(&mut self, token: Token, asked: &[String], for_scopes: bool, now: Timestamp) {
        self.breaker.close();
        self.state.last_error = None;
        let scope = token.scope.as_deref();
        let step = self.steps.compare(asked, scope);
        let taken = !(matches!(step, Step::Short(_)) && for_scopes && self.is_good());
        self.steps.answered(asked, scope, taken);
        self.state.step_up = match step {
            Step::None => self.steps.remembered(&self.state.step_up, now),
            Step::Up(told) | Step::Half(told) | Step::Short(told) => told,
        };
        if !taken {
            self.state.next_attempt_at = self.due_at(now).max(schedule::paced(now));
            return;
        }
        self.refusals
            .succeed(now, self.state.token.is_some() && !for_scopes);
        self.renewal_at = schedule::refresh_at(&token, &self.policy, now);
        self.state.token = Some(Arc::new(token));
        self.state.token_generation = Some(self.state.generation);
        self.unproven = false;
        self.state.next_attempt_at = self.due_at(now);
        tracing::debug!(next_attempt_at = %self.state.next_attempt_at, "token issued");
    }

    fn fail(&mut self, error: Error, asked: &[String], now: Timestamp) {
        match self.steps.failed(asked, &error) {
            Miss::Refused(told) => {
                // The server is well, and the token in use is as good as it was.
                tracing::warn!(reason = error.reason(), scopes = ?asked, "scopes refused");
                self.breaker.close();
                self.state.step_up = told;
                self.state.last_error = None;
                self.state.next_attempt_at = self.due_at(now).max(schedule::paced(now));
                return;
            }
            Miss::GivenUp(told) => self.state.step_up = told,
            Miss::Other => {}
        }
        self.state.next_attempt_at = self.breaker.failed(now, &error, &self.policy);
        tracing::warn!(
            reason = error.reason(), message = error.message(), failures = self.breaker.failures,
            next_attempt_at = %self.state.next_attempt_at, "token request failed"
        );
        self.state.last_error = Some(Failure { at: now, error });
    }

    /// When the next request is due while nothing fails.
    fn due_at(&self, now: Timestamp) -> Timestamp {
        if self.state.token.is_none() || self.unproven || self.steps.is_pending() {
            return now;
        }
        match self.refusals.again_at() {
            Some(again_at) => self.renewal_at.min(again_at),
            None => self.renewal_at,
        }
    }

    /// Whether a demand may bring the next request forward.
    fn may_hasten(&self) -> bool {
        self.flight.is_none() && self.breaker.failures == 0
    }

    fn is_in_use(&self, token_id: &str) -> bool {
        self.state
            .token
            .as_ref()
            .is_some_and(|token| token.id == token_id)
    }

    /// Whether there is a token that nobody refused.
    fn is_good(&self) -> bool {
        self.state.token.is_some() && self.refusals.again_at().is_none()
    }

    /// Takes over what the state tells of its parts.
    fn tell(&mut self) {
        if self.state.token.is_none() {
            self.state.token_generation = None;
        }
        self.state.refused = self.refusals.again_at().is_some();
        self.state.refusals_in_a_row = self.refusals.in_a_row;
        self.state.failures_in_a_row = self.breaker.failures;
        self.state.circuit = self.breaker.circuit;
    }
}
