//! Token lifecycle: what an event makes of the state, and when the next request is due.
//! Takes the time as a parameter, and makes no request.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oauth2::Scope;

use super::schedule;
use crate::renewal::breaker::Breaker;
use crate::renewal::rejection_backoff::RejectionBackoff;
use crate::renewal::step_up::{DemandOutcome, FailureOutcome, GrantOutcome, StepUpTracker};
use crate::{Error, Failure, IssuedToken, Policy, StepUp, Token, TokenRequest, TokenSourceState};

pub(super) struct TokenLifecycle {
    policy: Policy,
    state: TokenSourceState,
    breaker: Breaker,
    rejections: RejectionBackoff,
    step_ups: StepUpTracker,
    /// The request under way.
    in_flight: Option<PendingRequest>,
    /// When the token in use is renewed unless a resource server demands it earlier.
    renewal_at: Timestamp,
    /// A client was given that has not brought a token yet.
    unverified: bool,
    /// The token that expired last without a successor.
    expired: Option<Arc<Token>>,
}

struct PendingRequest {
    token_request: TokenRequest,
    /// It is made for scopes alone: the token in use is good otherwise.
    for_scopes: bool,
}

impl TokenLifecycle {
    /// Begins with a token that was issued before, if there is one that is not over.
    pub fn new(token: Option<Arc<Token>>, policy: Policy, now: Timestamp) -> Self {
        let token = token.filter(|token| !token.is_expired(now));
        let refresh_at = |token: &Arc<Token>| schedule::refresh_at(token, &policy, now);
        let renewal_at = token.as_ref().map_or(now, refresh_at);
        Self {
            policy,
            state: TokenSourceState::new(token, renewal_at),
            breaker: Breaker::default(),
            rejections: RejectionBackoff::default(),
            step_ups: StepUpTracker::default(),
            in_flight: None,
            renewal_at,
            unverified: false,
            expired: None,
        }
    }

    /// Makes the next request when whoever had the token before was to make it, and never later than the
    /// policy says.
    pub fn with_next_attempt_at(mut self, at: Timestamp, now: Timestamp) -> Self {
        if let Some(token) = &self.state.token {
            let policy = Policy {
                random: || 0.0,
                ..self.policy
            };
            self.renewal_at = at.min(schedule::refresh_at(token, &policy, now));
            self.state.next_attempt_at = self.renewal_at;
        }
        self
    }

    pub fn state(&self) -> &TokenSourceState {
        &self.state
    }

    /// When [`TokenLifecycle::end_probation`] is due.
    pub fn probation_ends_at(&self) -> Option<Timestamp> {
        self.rejections.probation_ends_at()
    }

    /// When the token in use is renewed unless a resource server demands it earlier.
    pub fn renewal_at(&self) -> Timestamp {
        self.renewal_at
    }

    pub fn deadline(&self) -> Duration {
        self.policy.deadline
    }

    /// A request is made now, for what this returns.
    pub fn start_request(&mut self, now: Timestamp) -> TokenRequest {
        let token_request = TokenRequest {
            scopes: self
                .step_ups
                .scopes_to_request()
                .into_iter()
                .map(Scope::new)
                .collect(),
            rejections_in_a_row: self.rejections.in_a_row,
            in_use: self.state.token.as_ref().map(|token| token.access_token.clone()),
            assumed_lifetime: self.policy.assumed_lifetime,
        };
        let for_scopes =
            self.step_ups.is_pending() && self.has_good_token() && !self.unverified && now < self.renewal_at;
        self.in_flight = Some(PendingRequest {
            token_request: token_request.clone(),
            for_scopes,
        });
        self.state.requests += 1;
        self.breaker.probe();
        self.update_state();
        token_request
    }

    /// The request that was sent at this time came to its end.
    pub fn finish_request(
        &mut self,
        outcome: Result<IssuedToken, Error>,
        sent_at: Timestamp,
        now: Timestamp,
    ) {
        let in_flight = self.in_flight.take();
        let (requested, for_scopes) = in_flight.map_or_else(Default::default, |in_flight| {
            let requested: Vec<String> = in_flight
                .token_request
                .scopes
                .into_iter()
                .map(String::from)
                .collect();
            (requested, in_flight.for_scopes)
        });
        // A server that issues the same token until its end by its own clock has a new one in a moment.
        let is_over = outcome.as_ref().is_ok_and(|issued| {
            let expired = self.expired.as_ref();
            expired.is_some_and(|expired| expired.access_token.secret() == issued.access_token.secret())
        });
        match outcome.and_then(|issued| Token::issue(issued, sent_at, now)) {
            Ok(token) => self.succeed(token, &requested, for_scopes, now),
            Err(error) => {
                let is_permanent = error.is_permanent() && !is_over;
                self.fail(error, is_permanent, &requested, now);
            }
        }
        self.update_state();
    }

    /// The token in use is over.
    pub fn expire(&mut self, now: Timestamp) {
        tracing::warn!("token expired without a successor");
        self.expired = self.state.token.take();
        self.rejections.token_lost();
        self.advance_without_token(now);
        self.update_state();
    }

    /// The token in use is past its probation.
    pub fn end_probation(&mut self) {
        self.rejections.reset();
        self.update_state();
    }

    /// Another client asks from now on, and at once. A request under way is given up.
    pub fn replace(&mut self, now: Timestamp) {
        self.in_flight = None;
        self.breaker.close();
        self.rejections.reset();
        self.step_ups.start_over();
        self.state.generation += 1;
        self.unverified = true;
        self.state.next_attempt_at = now;
        self.update_state();
    }

    pub fn set_policy(&mut self, policy: Policy, now: Timestamp) {
        self.policy = policy;
        let Some(token) = &self.state.token else { return };
        self.renewal_at = schedule::refresh_at(token, &self.policy, now);
        // While a request is under way its outcome decides, and after a failure the backoff, which has not
        // changed.
        if self.may_advance() {
            self.state.next_attempt_at = self.next_due_at(now);
        }
    }

    /// A resource server refused the token of this id. Whether that changes anything.
    pub fn reject(&mut self, token_id: &str, now: Timestamp) -> bool {
        if !self.is_in_use(token_id) || self.rejections.retry_at().is_some() {
            return false;
        }
        let retry_at = self.rejections.reject(now, self.policy.random);
        tracing::info!(
            in_a_row = self.rejections.in_a_row,
            %retry_at,
            "token refused by its resource server"
        );
        if self.may_advance() {
            self.state.next_attempt_at = self.next_due_at(now);
        }
        self.update_state();
        true
    }

    /// A resource server demands scopes of the token of this id. Whether that changes anything.
    pub fn demand_scopes(&mut self, token_id: &str, scopes: &[String], now: Timestamp) -> bool {
        let Some(token) = self.state.token.as_ref().filter(|token| token.id == token_id) else {
            return false;
        };
        match self.step_ups.demand(scopes, token.scope.as_deref(), now) {
            DemandOutcome::Ignore => false,
            DemandOutcome::Refuse(step_up) if self.state.step_up == step_up => false,
            DemandOutcome::Refuse(step_up) => {
                self.state.step_up = step_up;
                true
            }
            DemandOutcome::RequestToken => {
                if self.may_advance() {
                    self.state.next_attempt_at = self.next_due_at(now);
                }
                true
            }
        }
    }

    /// No other scopes than these are requested because resource servers demand them. Whether that changes anything.
    pub fn retain_step_up_scopes(&mut self, allowed: &[String], now: Timestamp) -> bool {
        let changed = self.step_ups.retain(allowed);
        if changed {
            self.state.step_up = self.step_ups.last_outcome(&StepUp::None, now);
            if self.may_advance() {
                self.state.next_attempt_at = self.next_due_at(now);
            }
        }
        changed
    }

    fn succeed(&mut self, mut token: Token, requested: &[String], for_scopes: bool, now: Timestamp) {
        self.breaker.close();
        self.state.last_error = None;
        let scope = token.scope.as_deref();
        let step = self.step_ups.compare(requested, scope);
        let accepted = !(matches!(step, GrantOutcome::Short(_)) && for_scopes && self.has_good_token());
        self.step_ups.record_grant(requested, scope, accepted);
        self.state.step_up = match step {
            GrantOutcome::None => self.step_ups.last_outcome(&self.state.step_up, now),
            GrantOutcome::Up(step_up) | GrantOutcome::Half(step_up) | GrantOutcome::Short(step_up) => step_up,
        };
        if !accepted {
            self.state.next_attempt_at = self.next_due_at(now).max(schedule::earliest_next(now));
            return;
        }
        match self
            .state
            .token
            .as_ref()
            .filter(|current| current.is_same(&token))
        {
            // Asking again before its end would bring it once more.
            Some(current) => {
                token.id.clone_from(&current.id);
                if self.rejections.retry_at().is_some() {
                    self.rejections.reject(now, self.policy.random);
                }
                self.renewal_at = token
                    .expires_at
                    .unwrap_or_else(|| schedule::refresh_at(&token, &self.policy, now));
            }
            None => {
                self.rejections
                    .token_replaced(now, self.state.token.is_some() && !for_scopes);
                self.renewal_at = schedule::refresh_at(&token, &self.policy, now);
            }
        }
        self.expired = None;
        self.state.token = Some(Arc::new(token));
        self.state.token_generation = Some(self.state.generation);
        self.unverified = false;
        self.state.next_attempt_at = self.next_due_at(now);
        tracing::debug!(next_attempt_at = %self.state.next_attempt_at, "token issued");
    }

    fn fail(&mut self, error: Error, is_permanent: bool, requested: &[String], now: Timestamp) {
        match self.step_ups.failed(requested, &error) {
            FailureOutcome::Refused(step_up) => {
                // The server answers, and the token in use is as good as it was.
                tracing::warn!(reason = error.reason(), scopes = ?requested, "scopes refused");
                self.breaker.close();
                self.state.step_up = step_up;
                self.state.last_error = None;
                self.state.next_attempt_at = self.next_due_at(now).max(schedule::earliest_next(now));
                return;
            }
            FailureOutcome::GivenUp(step_up) => self.state.step_up = step_up,
            FailureOutcome::Other => {}
        }
        self.state.next_attempt_at = match is_permanent {
            true => self.breaker.failed_permanently(now, &error, &self.policy),
            false => {
                let longest = schedule::longest_backoff(self.has_good_token(), self.breaker.failures + 1);
                self.breaker.failed(now, &error, longest, &self.policy)
            }
        };
        tracing::warn!(
            reason = error.reason(), message = error.message(), failures = self.breaker.failures,
            next_attempt_at = %self.state.next_attempt_at, "token request failed"
        );
        self.state.last_error = Some(Failure { at: now, error });
    }

    /// The pause after the last failure was for as long as there was a token.
    fn advance_without_token(&mut self, now: Timestamp) {
        let at = match &self.state.last_error {
            None => now,
            Some(Failure { error, .. }) if error.is_permanent() || error.retry_after().is_some() => return,
            Some(_) => {
                let failures = self.breaker.failures;
                let longest = schedule::longest_backoff(false, failures);
                schedule::retry_at(now, failures, None, longest, &self.policy)
            }
        };
        self.breaker.bring_forward(at);
        self.state.next_attempt_at = self.state.next_attempt_at.min(at);
    }

    /// When the next request is due while nothing fails.
    fn next_due_at(&self, now: Timestamp) -> Timestamp {
        if self.state.token.is_none() || self.unverified || self.step_ups.is_pending() {
            return now;
        }
        match self.rejections.retry_at() {
            Some(retry_at) => self.renewal_at.min(retry_at),
            None => self.renewal_at,
        }
    }

    /// Whether a demand may bring the next request forward.
    fn may_advance(&self) -> bool {
        self.in_flight.is_none() && self.breaker.failures == 0
    }

    fn is_in_use(&self, token_id: &str) -> bool {
        self.state
            .token
            .as_ref()
            .is_some_and(|token| token.id == token_id)
    }

    /// Whether there is a token that no resource server refused.
    fn has_good_token(&self) -> bool {
        self.state.token.is_some() && self.rejections.retry_at().is_none()
    }

    /// Takes over what the state tells of its parts.
    fn update_state(&mut self) {
        if self.state.token.is_none() {
            self.state.token_generation = None;
        }
        self.state.rejected = self.rejections.retry_at().is_some();
        self.state.rejections_in_a_row = self.rejections.in_a_row;
        self.state.failures_in_a_row = self.breaker.failures;
        self.state.circuit = self.breaker.circuit;
    }
}
