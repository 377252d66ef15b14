//! The task of a token source: it makes the request that `life` decided for, waits for what comes next, and tells
//! the subscribers.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::lifecycle::Life;
use crate::clock::before;
use crate::renewal::deadline::Alarm;
use crate::token_request::{Exchange, Exchanging, Issued, within};
use crate::{Clock, Error, Policy, State};

/// What the handle tells its task.
pub(super) enum Order {
    Replace(Arc<dyn Exchange>),
    Follow(Policy),
    Refused(String),
    Demand { token_id: String, scopes: Vec<String> },
}

pub(super) struct Run {
    exchange: Arc<dyn Exchange>,
    clock: Clock,
    life: Life,
    flight: Option<Flight>,
    alarms: Alarms,
    state: watch::Sender<State>,
}

/// The request under way.
struct Flight {
    sent_at: Timestamp,
    timer: Instant,
    outcome: Exchanging<'static>,
}

/// What is waited for, by wall clock and timer.
struct Alarms {
    attempt: Option<Alarm>,
    /// Kept while a demand brings the attempt forward: it may have been set before the clock was.
    renewal: Option<Alarm>,
    expiry: Option<Alarm>,
    trust: Option<Alarm>,
}

impl Run {
    pub fn new(exchange: Arc<dyn Exchange>, life: Life, clock: Clock) -> (Self, watch::Receiver<State>) {
        let (state, subscription) = watch::channel(life.state().clone());
        let alarms = Alarms {
            attempt: None,
            renewal: None,
            expiry: None,
            trust: None,
        };
        let mut run = Self {
            exchange,
            clock,
            life,
            flight: None,
            alarms,
            state,
        };
        run.set_alarms();
        (run, subscription)
    }

    /// Ends when the handle is gone.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let changed = tokio::select! {
                // In this order: a token that arrives in the moment the old one ends leaves no gap between them.
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                (sent_at, outcome) = landing(&mut self.flight, &self.clock) => {
                    self.flight = None;
                    self.alarms.attempt = None;
                    self.life.settle(outcome, sent_at, self.clock.now());
                    true
                }
                () = ring(self.alarms.expiry, &self.clock) => {
                    self.life.expire(self.clock.now());
                    true
                }
                () = ring(self.alarms.trust, &self.clock) => {
                    self.life.trust();
                    true
                }
                () = ring(self.alarms.attempt, &self.clock), if self.flight.is_none() => {
                    self.depart();
                    false
                }
            };
            self.set_alarms();
            self.state.send_if_modified(|state| {
                state.clone_from(self.life.state());
                changed
            });
        }
    }

    /// Whether that changed anything.
    fn obey(&mut self, order: Order) -> bool {
        let now = self.clock.now();
        match order {
            Order::Replace(exchange) => {
                self.exchange = exchange;
                self.flight = None;
                self.life.replace(now);
                true
            }
            Order::Follow(policy) => {
                self.life.follow(policy, now);
                true
            }
            Order::Refused(token_id) => self.life.refuse(&token_id, now),
            Order::Demand { token_id, scopes } => self.life.demand(&token_id, &scopes, now),
        }
    }

    fn depart(&mut self) {
        let sent_at = self.clock.now();
        let (ask, limit) = (self.life.depart(sent_at), self.life.deadline());
        // Whatever rang is spent. Where the clock was set back the next one may be due at the very same time, and must
        // not be taken for one that has rung already.
        self.alarms.attempt = None;
        self.alarms.renewal = self.alarms.renewal.filter(|alarm| !alarm.rang(&self.clock));
        let exchange = Arc::clone(&self.exchange);
        self.flight = Some(Flight {
            sent_at,
            timer: Instant::now(),
            outcome: Box::pin(async move { within(limit, exchange.exchange(&ask)).await }),
        });
    }

    fn set_alarms(&mut self) {
        let state = self.life.state();
        self.alarms.renewal = set(self.alarms.renewal, Some(self.life.renewal_at()), &self.clock);
        let of_renewal = |alarm: &Alarm| alarm.at == state.next_attempt_at;
        self.alarms.attempt = match self.alarms.renewal.filter(of_renewal) {
            Some(renewal) => Some(renewal),
            None => set(self.alarms.attempt, Some(state.next_attempt_at), &self.clock),
        };
        let expires_at = state.token.as_ref().and_then(|token| token.expires_at);
        self.alarms.expiry = set(self.alarms.expiry, expires_at, &self.clock);
        self.alarms.trust = set(self.alarms.trust, self.life.trusted_at(), &self.clock);
    }
}

/// The outcome of the request under way, and when that was sent: as the clock said then, or as it would have said had
/// it been set already to what it is now, whichever is earlier. Never, where there is none.
async fn landing(flight: &mut Option<Flight>, clock: &Clock) -> (Timestamp, Result<Issued, Error>) {
    match flight {
        Some(flight) => {
            let outcome = flight.outcome.as_mut().await;
            let sent_at = before(clock.now(), flight.timer.elapsed());
            (flight.sent_at.min(sent_at), outcome)
        }
        None => std::future::pending().await,
    }
}

async fn ring(alarm: Option<Alarm>, clock: &Clock) {
    match alarm {
        Some(alarm) => alarm.ring(clock).await,
        None => std::future::pending().await,
    }
}

/// The alarm for this moment; the one there was, if it is the same.
fn set(alarm: Option<Alarm>, at: Option<Timestamp>, clock: &Clock) -> Option<Alarm> {
    match (alarm, at) {
        (Some(alarm), Some(at)) if alarm.at == at => Some(alarm),
        (_, at) => at.map(|at| Alarm::at(at, clock)),
    }
}
