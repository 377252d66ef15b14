//! Token renewal: keeps a token that is always valid: requested when the source starts, renewed ahead of its
//! end, when a server refuses it or demands more of it, and asked for again after failures. `lifecycle`
//! decides, `task` keeps the one request that may be under way.
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

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::Instrument;

use crate::token_request::TokenRequester;
use crate::{Clock, Policy, Token, TokenSourceState};
use lifecycle::TokenLifecycle;
use task::{Command, SourceTask};

/// A handle on a running source. Dropping it ends the source and the request under way.
#[derive(Debug)]
pub struct TokenSource {
    /// Boxed: tokio's channel keeps room for 32 of them, and there are thousands of sources.
    commands: mpsc::UnboundedSender<Box<Command>>,
    state: watch::Receiver<TokenSourceState>,
}

impl TokenSource {
    /// Starts a source that requests its first token at once. Needs a tokio runtime.
    pub fn spawn(requester: impl TokenRequester, policy: Policy, clock: Clock) -> Self {
        let lifecycle = TokenLifecycle::new(None, policy, clock.now());
        Self::start(Arc::new(requester), lifecycle, clock)
    }

    /// Starts a source with a token that was issued before, such as by another replica: no token is requested
    /// before that one is due for renewal, which is at `next_attempt_at` where that is known.
    pub fn resume(
        requester: impl TokenRequester,
        policy: Policy,
        clock: Clock,
        token: Arc<Token>,
        next_attempt_at: Option<Timestamp>,
    ) -> Self {
        let now = clock.now();
        let lifecycle = TokenLifecycle::new(Some(token), policy, now);
        let lifecycle = match next_attempt_at {
            Some(at) => lifecycle.with_next_attempt_at(at, now),
            None => lifecycle,
        };
        Self::start(Arc::new(requester), lifecycle, clock)
    }

    /// The state and its changes. Closed once the source has ended.
    pub fn subscribe(&self) -> watch::Receiver<TokenSourceState> {
        self.state.clone()
    }

    /// Requests a new token at once by other means: the secret or the registration changed. A request under
    /// way is given up. The token in use serves until the new one is there.
    pub fn replace(&self, requester: impl TokenRequester) {
        self.send_command(Command::Replace(Arc::new(requester)));
    }

    /// Renews by another policy from now on. Requests nothing that is not due.
    pub fn set_policy(&self, policy: Policy) {
        self.send_command(Command::SetPolicy(policy));
    }

    /// The resource server answered 401 to the token of this id. If that is the token in use, its successor
    /// is requested at once, once, however many say so and however late. Where successors are refused as
    /// well, the next requests are further and further apart; while the authorization server fails, the
    /// backoff alone decides.
    pub fn report_rejected(&self, token_id: &str) {
        self.send_command(Command::Rejected(token_id.to_owned()));
    }

    /// A resource server answered 403 and demands these scopes of the token of this id. If that is the token
    /// in use, one that has them too is requested at once; see [`TokenSourceState::step_up`] for what came of
    /// it.
    pub fn demand_scopes(&self, token_id: &str, scopes: Vec<String>) {
        self.send_command(Command::DemandScopes {
            token_id: token_id.to_owned(),
            scopes,
        });
    }

    /// Requests none but these scopes from the next request on, of those that resource servers have demanded. The token in
    /// use may still have others.
    pub fn retain_step_up_scopes(&self, allowed: Vec<String>) {
        self.send_command(Command::RetainStepUpScopes(allowed));
    }

    fn start(requester: Arc<dyn TokenRequester>, lifecycle: TokenLifecycle, clock: Clock) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (task, state) = SourceTask::new(requester, lifecycle, clock);
        tokio::spawn(task.run(received).in_current_span());
        Self { commands, state }
    }

    fn send_command(&self, command: Command) {
        // The task outlives the handle; where the runtime itself is going down, there is nothing left to do.
        let _ = self.commands.send(Box::new(command));
    }
}
