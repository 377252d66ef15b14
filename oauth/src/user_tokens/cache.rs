//! What there is for each user, decided: a token, a failure that is still fresh, a request under way, or nothing. No
//! request is made here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::Outcome;
use super::byte_budget::{Scale, Weight};
use super::lru::{Recency, Turn};
use crate::clock::{after, before};
use crate::renewal::breaker::Breaker;
use crate::renewal::deadline::Alarm;
use crate::renewal::rejection_backoff::Refusals;
use crate::renewal::schedule;
use crate::{Circuit, Clock, Code, Error, Policy, Token};

/// How long before its end a token is not handed out any more: a call has to reach its server with it.
const LONGEST_MARGIN: Duration = Duration::from_secs(30);
/// How long a token of unknown life is kept.
const LONGEST_UNKNOWN: Duration = Duration::from_secs(5 * 60);
/// How long it is believed that a user's own token is not accepted.
const REJECTED_FOR: Duration = Duration::from_secs(30);

/// Names a user by a keyed hash of the user's token.
pub(super) type User = [u8; 32];

pub(super) enum Found {
    Token(Arc<Token>),
    Failed(Error),
    UnderWay(watch::Receiver<Option<Outcome>>),
    /// A request is to be made: its number, and whom to tell.
    Nothing(u64, watch::Sender<Option<Outcome>>),
}

pub(super) struct Shelf {
    capacity: usize,
    most_bytes: usize,
    policy: Policy,
    clock: Clock,
    users: HashMap<User, Entry>,
    /// Of the tokens and errors of all users.
    scale: Scale,
    /// Of the users without a request under way: the others are waited for.
    resting: Recency<User>,
    breaker: Breaker,
    /// What opened the circuit, and when it may be tried again.
    ill: Option<(Error, Alarm)>,
    /// The request that tries whether the server is well again.
    probe: Option<u64>,
    requests: u64,
}

#[derive(Default)]
struct Entry {
    token: Option<Held>,
    failed: Option<Failed>,
    failures: u32,
    refusals: Refusals,
    place: Place,
}

enum Place {
    Resting(Turn),
    UnderWay(watch::Receiver<Option<Outcome>>),
}

struct Held {
    token: Arc<Token>,
    /// When it is asked for anew.
    stale: Alarm,
    /// When it is over. `None`: nobody knows.
    over: Option<Alarm>,
    /// The MCP server refused it: when it is dropped.
    dropped: Option<Alarm>,
    _weight: Weight,
}

struct Failed {
    error: Error,
    until: Alarm,
    _weight: Weight,
}

impl Default for Place {
    fn default() -> Self {
        Self::Resting(Turn::MAX)
    }
}

impl Shelf {
    pub fn new(capacity: usize, most_bytes: usize, policy: Policy, clock: Clock) -> Self {
        Self {
            capacity: capacity.max(1),
            most_bytes,
            policy,
            clock,
            users: HashMap::new(),
            scale: Scale::default(),
            resting: Recency::default(),
            breaker: Breaker::default(),
            ill: None,
            probe: None,
            requests: 0,
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn circuit(&self) -> Circuit {
        self.breaker.circuit
    }

    /// What there is for this user now. Where it is nothing, a request is under way from now on.
    pub fn find(&mut self, user: User) -> Found {
        let mut token = None;
        if let Some(entry) = self.users.get_mut(&user) {
            if let Place::Resting(turn) = &mut entry.place {
                self.resting.take(*turn);
                *turn = self.resting.push(user);
            }
            if let Some(held) = entry.usable(&self.clock) {
                if !held.stale.rang(&self.clock) {
                    return Found::Token(Arc::clone(&held.token));
                }
                token = Some(Arc::clone(&held.token));
            }
            if let Place::UnderWay(waiting) = &entry.place {
                return Found::UnderWay(waiting.clone());
            }
            if let Some(failed) = entry
                .failed
                .as_ref()
                .filter(|failed| !failed.until.rang(&self.clock))
            {
                let failed = Found::Failed(failed.error.clone());
                return token.map_or(failed, Found::Token);
            }
        }
        let denied = self.denied().or_else(|| self.make_room(&user).err());
        match (denied, token) {
            // A token that is near its end is better than none.
            (Some(_), Some(token)) => Found::Token(token),
            (Some(error), None) => Found::Failed(error),
            (None, _) => self.depart(user),
        }
    }

    /// A request came to its end. Returns what those get who wait for it.
    pub fn land(&mut self, user: User, flight: u64, outcome: Outcome) -> Outcome {
        let now = self.clock.now();
        self.judge(flight, &outcome);
        let Some(entry) = self.users.get_mut(&user) else {
            return outcome;
        };
        entry.place = Place::Resting(self.resting.push(user));
        let outcome = match outcome {
            Ok(token) => {
                entry.refusals.succeed(now, entry.token.is_some());
                entry.token = Some(Held::new(Arc::clone(&token), &self.clock, &self.scale));
                entry.failed = None;
                entry.failures = 0;
                Ok(token)
            }
            Err(error) => {
                entry.failures = entry.failures.saturating_add(1);
                let until = match concerns_user(&error) {
                    true => after(now, REJECTED_FOR),
                    false => schedule::retry_at(now, entry.failures, error.retry_after(), &self.policy),
                };
                entry.failed = Some(Failed {
                    error: error.clone(),
                    until: Alarm::at(until, &self.clock),
                    // What a server said is in the message.
                    _weight: self.scale.put(error.to_string().len()),
                });
                match entry.usable(&self.clock) {
                    Some(held) => Ok(Arc::clone(&held.token)),
                    None => Err(error),
                }
            }
        };
        self.lighten();
        outcome
    }

    /// The MCP server refused this token of the user.
    pub fn refuse(&mut self, user: User, token_id: &str) {
        let Some(entry) = self.users.get_mut(&user) else {
            return;
        };
        let held = entry.token.as_mut().filter(|held| held.token.id == token_id);
        if let Some(held) = held.filter(|held| held.dropped.is_none()) {
            let again_at = entry.refusals.refuse(self.clock.now(), self.policy.random);
            held.dropped = Some(Alarm::at(again_at, &self.clock));
        }
    }

    /// Failures so far say nothing any more.
    pub fn forgive(&mut self) {
        self.breaker.close();
        (self.ill, self.probe) = (None, None);
        for entry in self.users.values_mut() {
            entry.failed = None;
            entry.failures = 0;
            entry.refusals.trust();
        }
    }

    /// Why no request can be made now, if none can.
    fn denied(&self) -> Option<Error> {
        let (error, until) = self.ill.as_ref()?;
        let open = self.probe.is_some() || !until.rang(&self.clock);
        open.then(|| error.clone())
    }

    /// Makes room for one more user, at the price of whom was not seen for longest.
    fn make_room(&mut self, user: &User) -> Result<(), Error> {
        if self.users.contains_key(user) || self.users.len() < self.capacity {
            return Ok(());
        }
        let oldest = self.resting.pop().ok_or(Error::TooManyAtOnce)?;
        self.users.remove(&oldest);
        Ok(())
    }

    /// Keeps within the bytes there may be, at the price of whom was not seen for longest. Those with a request under
    /// way stay: they had room before, so what came to be too much is what has come since.
    fn lighten(&mut self) {
        while self.scale.total() > self.most_bytes {
            let Some(oldest) = self.resting.pop() else { return };
            self.users.remove(&oldest);
        }
    }

    fn depart(&mut self, user: User) -> Found {
        self.requests += 1;
        let flight = self.requests;
        if self.ill.is_some() {
            self.breaker.probe();
            self.probe = Some(flight);
        }
        let (sender, waiting) = watch::channel(None);
        let entry = self.users.entry(user).or_default();
        if let Place::Resting(turn) = entry.place {
            self.resting.take(turn);
        }
        entry.place = Place::UnderWay(waiting);
        Found::Nothing(flight, sender)
    }

    /// What an outcome says of the server. It is well if it answers, and be it that it does not accept a user.
    fn judge(&mut self, flight: u64, outcome: &Outcome) {
        let probed = self.probe.take_if(|probe| *probe == flight).is_some();
        match outcome {
            Err(error) if !concerns_user(error) => {
                // Those that were under way when the circuit opened say nothing new.
                if self.ill.is_some() && !probed {
                    return;
                }
                let until = self.breaker.failed(self.clock.now(), error, &self.policy);
                if let Circuit::Open { .. } = self.breaker.circuit {
                    tracing::warn!(reason = error.reason(), %until, "no tokens for users are asked for");
                    self.ill = Some((error.clone(), Alarm::at(until, &self.clock)));
                }
            }
            _ => {
                self.breaker.close();
                (self.ill, self.probe) = (None, None);
            }
        }
    }
}

impl Entry {
    /// The token, if it is neither over nor to be dropped.
    fn usable(&mut self, clock: &Clock) -> Option<&Held> {
        let rang = |alarm: Option<Alarm>| alarm.is_some_and(|alarm| alarm.rang(clock));
        if let Some(held) = self.token.take_if(|held| rang(held.over) || rang(held.dropped)) {
            if held.dropped.is_none() {
                // It was good to its end.
                self.refusals.trust();
            }
            self.refusals.lose();
        }
        self.token.as_ref()
    }
}

impl Held {
    fn new(token: Arc<Token>, clock: &Clock, scale: &Scale) -> Self {
        let stale = match token.expires_at {
            Some(end) => before(end, (token.life() / 10).min(LONGEST_MARGIN)),
            None => after(clock.now(), LONGEST_UNKNOWN),
        };
        Self {
            stale: Alarm::at(stale, clock),
            over: token.expires_at.map(|end| Alarm::at(end, clock)),
            dropped: None,
            _weight: scale.put(bytes(&token)),
            token,
        }
    }
}

/// Of what a server may make long.
fn bytes(token: &Token) -> usize {
    let scope = token.scope.as_ref().map_or(0, String::len);
    let mismatch = token
        .mismatch
        .as_ref()
        .map_or(0, |mismatch| mismatch.to_string().len());
    token.access_token.expose_secret().len() + scope + mismatch
}

/// Whether an error may be about the user's token rather than about the client or the server: what a single user can
/// bring about by what is sent as their token must not keep the others from theirs. RFC 8693 section 2.2.2 answers a
/// token that is not accepted with `invalid_request`; gateways before the server look at it too, and answer by status.
fn concerns_user(error: &Error) -> bool {
    match error {
        Error::Rejected(rejection) => {
            rejection.retry_after.is_none()
                && matches!(
                    rejection.code,
                    Code::InvalidRequest
                        | Code::InvalidGrant
                        | Code::InvalidScope
                        | Code::InvalidTarget
                        | Code::AccessDenied
                        | Code::Other(_)
                )
        }
        Error::HttpStatus {
            status: status @ 400..500,
            retry_after: None,
        } => !matches!(status, 401 | 404 | 405 | 408 | 410 | 429),
        Error::ExpiredOnArrival { .. }
        | Error::TooLarge { .. }
        | Error::NotJson { .. }
        | Error::NoAccessToken { .. }
        | Error::UnsupportedTokenType { .. }
        | Error::TokenMismatch(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
