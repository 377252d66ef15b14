//! The users' own tokens (RFC 8693): asked of the operator once for each user, server and URL, and kept until they
//! end. A user is known by a keyed digest of what is exchanged, so that no session is kept here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::limits::Limits;
use super::waiting::WaitingRoom;
use crate::control::exchange_client::{TokenExchanger, UserTokenRequest};
use crate::proxy::clock::unix_now;
use crate::proxy::error::Refusal;
use crate::proxy::metrics::Metrics;
use crate::proxy::routes::token::Token;
use crate::proxy::routes::{Server, Usable};

/// A token is not used up to its end: it has yet to travel, and clocks differ. Of a short life it is half.
const MARGIN_SECONDS: i64 = 10;
/// How long a token is used that does not say when it ends.
const UNSTATED_SECONDS: i64 = 300;
/// How long a failure is answered without asking again.
const FAILED: Duration = Duration::from_secs(1);
/// Exchanges at the same time.
const FLIGHTS: usize = 64;

/// Names a user at one URL of one server, as long as tokens are minted for the same.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct User([u8; 32]);

pub struct Users(Arc<Inner>);

struct Inner {
    exchange: Arc<dyn TokenExchanger>,
    /// Random, so that what names a user here is worth nothing elsewhere.
    key: [u8; 32],
    known: Mutex<HashMap<User, Entry>>,
    flights: Semaphore,
    limits: Limits,
    metrics: Metrics,
}

enum Entry {
    /// Asked for; whoever else wants it waits for the same answer.
    Flying(watch::Receiver<Option<Outcome>>),
    Ready {
        token: Arc<Token>,
        /// In Unix seconds.
        until: i64,
        used: Instant,
        /// The MCP server has refused it.
        refused: bool,
    },
    Failed {
        problem: Arc<Problem>,
        until: Instant,
    },
}

type Outcome = Result<Arc<Token>, Arc<Problem>>;

/// What is known at the moment.
enum Look {
    Known(Outcome),
    /// The receiver, and the sender if it is up to the caller to ask.
    Flying(watch::Receiver<Option<Outcome>>, Option<Flight>),
    Full,
}

struct Flight {
    done: watch::Sender<Option<Outcome>>,
    /// The token that is not wanted again.
    refused: Option<Arc<Token>>,
}

impl Users {
    pub fn new(exchange: Arc<dyn TokenExchanger>, limits: Limits, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            exchange,
            key: rand::random(),
            known: Mutex::default(),
            flights: Semaphore::new(FLIGHTS),
            limits,
            metrics,
        }))
    }

    pub fn user(&self, server: &Server, usable: &Usable, subject: &SecretString) -> User {
        let mut digest = Sha256::new_with_prefix(self.0.key);
        let parts = [
            &*server.name,
            usable.url.as_str(),
            &*usable.minted_for,
            subject.expose_secret(),
        ];
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        User(digest.finalize().into())
    }

    /// The user's token, which is never `refused`. Asks the operator if need be, once for all who wait.
    pub async fn token(
        &self,
        server: &Server,
        user: User,
        subject: &SecretString,
        refused: Option<&Arc<Token>>,
        room: &WaitingRoom,
    ) -> Result<Arc<Token>, Refusal> {
        let usable = server.require_usable()?;
        let (mut flying, flight) = match self.0.look(user, refused, unix_now()) {
            Look::Known(outcome) => return outcome.map_err(|problem| failed(server, &problem)),
            Look::Full => {
                return Err(Refusal::TooManyWaiting {
                    resource: server.resource.clone(),
                });
            }
            Look::Flying(flying, flight) => (flying, flight),
        };
        let _place = room.enter(&server.resource)?;
        if let Some(flight) = flight {
            let ask = UserTokenRequest {
                server: server.name.clone(),
                url: usable.stated_url.clone(),
                subject: subject.clone(),
                refused: flight.refused.as_ref().map(|token| token.id.clone()),
            };
            // A task of its own: it is not to end when the client of this request goes away.
            tokio::spawn(self.0.clone().fly(user, ask, flight.done));
        }
        let outcome = match flying.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(ended())));
        outcome.map_err(|problem| failed(server, &problem))
    }

    /// The server refused the token, so the next request asks for another.
    pub fn refused(&self, user: User, refused_token: &Arc<Token>) {
        if let Some(Entry::Ready { token, refused, .. }) = self.0.lock().get_mut(&user)
            && Arc::ptr_eq(token, refused_token)
        {
            *refused = true;
        }
    }

    /// Drops what is of no use any more.
    pub fn sweep(&self) {
        sweep(&mut self.0.lock(), unix_now());
    }
}

impl Inner {
    fn look(&self, user: User, unwanted: Option<&Arc<Token>>, now: i64) -> Look {
        let mut known = self.lock();
        let mut instead_of = unwanted.cloned();
        match known.get_mut(&user) {
            Some(Entry::Flying(flying)) if flying.has_changed().is_ok() => {
                return Look::Flying(flying.clone(), None);
            }
            Some(Entry::Ready {
                token,
                until,
                used,
                refused,
            }) => {
                let unwanted = *refused || unwanted.is_some_and(|unwanted| Arc::ptr_eq(unwanted, token));
                if unwanted {
                    instead_of = Some(token.clone());
                } else if now < *until {
                    *used = Instant::now();
                    return Look::Known(Ok(token.clone()));
                }
            }
            Some(Entry::Failed { problem, until }) if Instant::now() < *until => {
                return Look::Known(Err(problem.clone()));
            }
            Some(Entry::Flying(_) | Entry::Failed { .. }) | None => {}
        }
        if known.len() >= self.limits.users && !known.contains_key(&user) {
            make_room(&mut known, now);
            if known.len() >= self.limits.users {
                return Look::Full;
            }
        }
        let (done, flying) = watch::channel(None);
        known.insert(user, Entry::Flying(flying.clone()));
        let flight = Flight {
            done,
            refused: instead_of,
        };
        Look::Flying(flying, Some(flight))
    }

    async fn fly(self: Arc<Self>, user: User, ask: UserTokenRequest, done: watch::Sender<Option<Outcome>>) {
        let refused = ask.refused.clone();
        let asking = async {
            // Never closed.
            let _permit = self.flights.acquire().await;
            self.exchange.exchange(ask).await
        };
        let asked = timeout(self.limits.exchange, asking).await;
        let answer = asked.unwrap_or_else(|_| Err(late(self.limits.exchange)));
        let outcome = answer
            .and_then(|credential| match Token::of(&credential) {
                Ok(Some(token)) if refused.as_ref().is_some_and(|refused| *refused == token.id) => {
                    Err(Problem::new(
                        "TokenRefused",
                        "the MCP server refused the user's token, and the operator has no other",
                    ))
                }
                Ok(Some(token)) => Ok(Arc::new(token)),
                Ok(None) => Err(Problem::new(
                    "OperatorAnswerInvalid",
                    "the operator's answer is no token",
                )),
                Err(invalid) => Err(Problem::new("InvalidToken", invalid.to_string())),
            })
            .map_err(Arc::new);
        self.metrics.exchanged(outcome.is_ok());
        let entry = match &outcome {
            Ok(token) => Entry::Ready {
                token: token.clone(),
                until: until(token.expires_at, unix_now()),
                used: Instant::now(),
                refused: false,
            },
            Err(problem) => {
                tracing::warn!(
                    reason = problem.reason,
                    "no token for a user: {}",
                    problem.message
                );
                Entry::Failed {
                    problem: problem.clone(),
                    until: Instant::now() + FAILED,
                }
            }
        };
        self.lock().insert(user, entry);
        done.send_replace(Some(outcome));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<User, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a token is used that was just issued.
fn until(expires_at: Option<i64>, now: i64) -> i64 {
    match expires_at {
        None => now.saturating_add(UNSTATED_SECONDS),
        Some(end) => {
            let left = end.saturating_sub(now).max(0);
            end.saturating_sub(MARGIN_SECONDS.min(left / 2))
        }
    }
}

fn sweep(known: &mut HashMap<User, Entry>, now: i64) {
    let instant = Instant::now();
    known.retain(|_, entry| match entry {
        Entry::Flying(flying) => flying.has_changed().is_ok(),
        Entry::Ready { until, .. } => now < *until,
        Entry::Failed { until, .. } => instant < *until,
    });
}

/// Drops what has ended, and if that is not enough, the tenth that was not used for longest: so many at once that
/// not every new user has all the others looked through.
fn make_room(known: &mut HashMap<User, Entry>, now: i64) {
    let before = known.len();
    sweep(known, now);
    if known.len() < before {
        return;
    }
    let mut ready: Vec<_> = known
        .iter()
        .filter_map(|(user, entry)| match entry {
            Entry::Ready { used, .. } => Some((*used, *user)),
            Entry::Flying(_) | Entry::Failed { .. } => None,
        })
        .collect();
    ready.sort_unstable_by_key(|(used, _)| *used);
    for (_, user) in ready.iter().take(ready.len().div_ceil(10)) {
        known.remove(user);
    }
}

fn failed(server: &Server, problem: &Problem) -> Refusal {
    Refusal::ExchangeFailed {
        resource: server.resource.clone(),
        why: problem.reason.as_str().into(),
        message: problem.message.as_str().into(),
    }
}

fn late(within: Duration) -> Problem {
    let message = format!("the operator gave no answer within {} s", within.as_secs());
    Problem::new("ExchangeTimeout", message)
}

fn ended() -> Problem {
    Problem::new("ExchangeEnded", "the exchange ended without an answer")
}

#[cfg(test)]
mod tests;
