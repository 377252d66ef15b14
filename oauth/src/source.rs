//! A token that is always at hand: requested when the source starts, renewed ahead of its end, asked for again
//! after failures. [`schedule`](crate::schedule) says when; this keeps the one request that may be under way.
//!
//! A token serves until it really expires or has a successor, whatever fails meanwhile.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::exchange::{Exchange, Exchanging, Issued};
use crate::{Ask, Clock, Error, Failure, Policy, State, Token, schedule};

/// A handle on a running source. Dropping it ends the source and the request under way.
#[derive(Debug)]
pub struct TokenSource {
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
}

enum Order {
    Replace(Arc<dyn Exchange>),
    Follow(Policy),
}

struct Run {
    exchange: Arc<dyn Exchange>,
    policy: Policy,
    clock: Clock,
    flight: Option<Flight>,
    next_attempt_at: Timestamp,
    state: watch::Sender<State>,
}

/// The request under way.
struct Flight {
    sent_at: Timestamp,
    outcome: Exchanging<'static>,
}

impl TokenSource {
    /// Starts a source that requests its first token at once. Needs a tokio runtime.
    pub fn spawn(exchange: impl Exchange, policy: Policy, clock: Clock) -> Self {
        let state = State::new(None, clock.now());
        Self::start(Arc::new(exchange), policy, clock, state)
    }

    /// Starts a source with a token that was issued before, such as by another replica: no token is requested
    /// before that one is due for renewal.
    pub fn resume(exchange: impl Exchange, policy: Policy, clock: Clock, token: Arc<Token>) -> Self {
        let now = clock.now();
        let state = if token.is_expired(now) {
            State::new(None, now)
        } else {
            let next_attempt_at = schedule::refresh_at(&token, &policy);
            State::new(Some(token), next_attempt_at)
        };
        Self::start(Arc::new(exchange), policy, clock, state)
    }

    /// The state and its changes. Closed once the source has ended.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Requests a new token at once by other means: the secret or the registration changed. A request under way
    /// is given up. The token in use serves until the new one is there.
    pub fn replace(&self, exchange: impl Exchange) {
        self.order(Order::Replace(Arc::new(exchange)));
    }

    /// Renews by another policy from now on. Requests nothing that is not due.
    pub fn follow(&self, policy: Policy) {
        self.order(Order::Follow(policy));
    }

    fn start(exchange: Arc<dyn Exchange>, policy: Policy, clock: Clock, state: State) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let next_attempt_at = state.next_attempt_at;
        let (state, subscription) = watch::channel(state);
        let run = Run {
            exchange,
            policy,
            clock,
            flight: None,
            next_attempt_at,
            state,
        };
        tokio::spawn(run.run(taken).in_current_span());
        Self {
            orders,
            state: subscription,
        }
    }

    fn order(&self, order: Order) {
        // The task outlives the handle; where the runtime itself is going down, there is nothing left to do.
        let _ = self.orders.send(order);
    }
}

impl Run {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let expires_at = self
                .state
                .borrow()
                .token
                .as_ref()
                .and_then(|token| token.expires_at);
            tokio::select! {
                // In this order: a token that arrives in the moment the old one ends leaves no gap between them.
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                (sent_at, outcome) = landing(&mut self.flight) => self.settle(sent_at, outcome),
                () = reached(&self.clock, expires_at) => self.expire(),
                () = self.clock.sleep_until(self.next_attempt_at), if self.flight.is_none() => self.depart(),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Replace(exchange) => {
                self.exchange = exchange;
                self.flight = None;
                self.next_attempt_at = self.clock.now();
                self.state.send_modify(|state| {
                    state.failures_in_a_row = 0;
                    state.next_attempt_at = self.next_attempt_at;
                });
            }
            Order::Follow(policy) => {
                self.policy = policy;
                let state = self.state.borrow().clone();
                // After a failure it is the backoff that decides, and that has not changed.
                if let (Some(token), 0, None) = (&state.token, state.failures_in_a_row, &self.flight) {
                    self.next_attempt_at = schedule::refresh_at(token, &self.policy);
                    self.state
                        .send_modify(|state| state.next_attempt_at = self.next_attempt_at);
                }
            }
        }
    }

    fn depart(&mut self) {
        let exchange = Arc::clone(&self.exchange);
        let ask = Ask::default();
        self.flight = Some(Flight {
            sent_at: self.clock.now(),
            outcome: Box::pin(async move { exchange.exchange(&ask).await }),
        });
        self.state.send_if_modified(|state| {
            state.requests += 1;
            false
        });
    }

    fn settle(&mut self, sent_at: Timestamp, outcome: Result<Issued, Error>) {
        self.flight = None;
        let now = self.clock.now();
        match outcome.and_then(|issued| Token::issue(issued, sent_at, now)) {
            Ok(token) => {
                self.next_attempt_at = schedule::refresh_at(&token, &self.policy);
                tracing::debug!(expires_at = ?token.expires_at, next_attempt_at = %self.next_attempt_at, "token issued");
                self.state.send_modify(|state| {
                    state.token = Some(Arc::new(token));
                    state.last_error = None;
                    state.failures_in_a_row = 0;
                    state.next_attempt_at = self.next_attempt_at;
                });
            }
            Err(error) => {
                let failures = self.state.borrow().failures_in_a_row.saturating_add(1);
                self.next_attempt_at = schedule::retry_at(now, failures, error.retry_after(), &self.policy);
                tracing::warn!(
                    reason = error.reason(), message = error.message(), failures,
                    next_attempt_at = %self.next_attempt_at, "token request failed"
                );
                self.state.send_modify(|state| {
                    state.last_error = Some(Failure { at: now, error });
                    state.failures_in_a_row = failures;
                    state.next_attempt_at = self.next_attempt_at;
                });
            }
        }
    }

    fn expire(&mut self) {
        tracing::warn!("token expired without a successor");
        self.state.send_modify(|state| state.token = None);
    }
}

/// The outcome of the request under way; never, where there is none.
async fn landing(flight: &mut Option<Flight>) -> (Timestamp, Result<Issued, Error>) {
    match flight {
        Some(flight) => (flight.sent_at, flight.outcome.as_mut().await),
        None => std::future::pending().await,
    }
}

async fn reached(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
