//! A token that is always at hand: requested when the source starts, renewed ahead of its end, when a server refuses
//! it or demands more of it, and asked for again after failures. `life` decides, `run` keeps the one request that may
//! be under way.
//!
//! A token serves until it really expires or has a successor, whatever fails meanwhile.

pub(crate) mod breaker;
pub(crate) mod deadline;
mod lifecycle;
pub(crate) mod policy;
pub(crate) mod rejection_backoff;
pub(crate) mod schedule;
pub(crate) mod state;
pub(crate) mod step_up;
mod task;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::token_request::Exchange;
use crate::{Clock, Policy, State, Token};
use lifecycle::Life;
use task::{Order, Run};

/// A handle on a running source. Dropping it ends the source and the request under way.
#[derive(Debug)]
pub struct TokenSource {
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
}

impl TokenSource {
    /// Starts a source that requests its first token at once. Needs a tokio runtime.
    pub fn spawn(exchange: impl Exchange, policy: Policy, clock: Clock) -> Self {
        let life = Life::new(None, policy, clock.now());
        Self::start(Arc::new(exchange), life, clock)
    }

    /// Starts a source with a token that was issued before, such as by another replica: no token is requested
    /// before that one is due for renewal.
    pub fn resume(exchange: impl Exchange, policy: Policy, clock: Clock, token: Arc<Token>) -> Self {
        let life = Life::new(Some(token), policy, clock.now());
        Self::start(Arc::new(exchange), life, clock)
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

    /// A resource server answered 401 to the token of this id. If that is the token in use, its successor is requested
    /// at once, once, however many say so and however late. Where successors are refused as well, the next requests are
    /// further and further apart; while the authorization server is ill, the backoff alone decides.
    pub fn refused(&self, token_id: &str) {
        self.order(Order::Refused(token_id.to_owned()));
    }

    /// A resource server answered 403 and demands these scopes of the token of this id. If that is the token in use,
    /// one that has them too is requested at once; see [`State::step_up`] for what came of it.
    pub fn demand_scopes(&self, token_id: &str, scopes: Vec<String>) {
        self.order(Order::Demand {
            token_id: token_id.to_owned(),
            scopes,
        });
    }

    fn start(exchange: Arc<dyn Exchange>, life: Life, clock: Clock) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let (run, state) = Run::new(exchange, life, clock);
        tokio::spawn(run.run(taken).in_current_span());
        Self { orders, state }
    }

    fn order(&self, order: Order) {
        // The task outlives the handle; where the runtime itself is going down, there is nothing left to do.
        let _ = self.orders.send(order);
    }
}
