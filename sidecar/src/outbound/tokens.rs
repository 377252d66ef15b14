//! Which token a request goes with, and which one after the server has refused that: the service's, as the operator
//! streams it, or the user's own. Never the one in place of the other.

use std::sync::Arc;

use http::StatusCode;
use mcp_auth_protocol::sync::RefusedBecause;
use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};

use super::limits::Limits;
use super::users::{User, Users};
use super::waiting::WaitingRoom;
use crate::clock::unix_now;
use crate::exchange::Exchange;
use crate::metrics::{Metrics, Why};
use crate::respond::{NotRepeated, Refusal, Renewal, Whose};
use crate::routes::token::{Admission, Token};
use crate::routes::{Credential, Prospect, Routes, Server, State, Usable};

pub struct Tokens {
    routes: Routes,
    users: Users,
    room: WaitingRoom,
    limits: Limits,
    metrics: Metrics,
}

/// A token for one request.
pub struct Chosen {
    /// As the table has it now.
    pub server: Arc<Server>,
    pub token: Arc<Token>,
    owner: Owner,
    admission: Admission,
}

enum Owner {
    Service,
    User(User, SecretString),
}

/// What the server said of a token.
#[derive(Debug)]
pub enum Refused {
    Unauthorized,
    InsufficientScope(Vec<String>),
}

impl Tokens {
    pub fn new(routes: Routes, exchange: Arc<dyn Exchange>, limits: Limits, metrics: Metrics) -> Self {
        Self {
            routes,
            users: Users::new(exchange, limits, metrics.clone()),
            room: WaitingRoom::new(limits.waiting, metrics.clone()),
            limits,
            metrics,
        }
    }

    /// The token to begin with. `subject` is there if the request is to carry the user's own.
    pub async fn first(
        &self,
        server: &Arc<Server>,
        usable: &Usable,
        subject: Option<SecretString>,
    ) -> Result<Chosen, Refusal> {
        match subject {
            None => self.of_service(server).await,
            Some(subject) => {
                let user = self.users.user(server, usable, &subject);
                self.of_user(server, user, subject, None).await
            }
        }
    }

    /// Takes note that the server took the token. Of a user's there is nothing to note.
    pub fn taken(&self, chosen: &Chosen) {
        if let Owner::Service = chosen.owner
            && chosen.token.taken(chosen.admission)
        {
            self.routes.taken_again(&chosen.server.name, &chosen.token);
        }
    }

    /// Another token after the server refused this one, for a request that `repeats` and has not been `repeated`.
    /// Whatever comes of that, the refusal is told on.
    pub async fn instead(
        &self,
        chosen: Chosen,
        refused: Refused,
        repeats: bool,
        repeated: bool,
    ) -> Result<Chosen, Refusal> {
        let whose = chosen.whose();
        self.metrics.token_refused(whose, refused.why());
        let resource = chosen.server.resource.clone();
        let in_vain = |refused: Refused, renewal| refused.refusal(resource.clone(), whose, renewal);
        let streamed = || Refusal::NotRepeated {
            resource: resource.clone(),
            why: NotRepeated::Streamed,
        };
        if let Owner::User(user, subject) = chosen.owner {
            return match refused {
                // The operator is asked for users' tokens one by one, and scopes are no part of that.
                Refused::InsufficientScope(_) => Err(in_vain(refused, Renewal::NotAsked)),
                Refused::Unauthorized => {
                    self.users.refused(user, &chosen.token);
                    match (repeated, repeats) {
                        (true, _) => Err(in_vain(refused, Renewal::RefusedToo)),
                        (false, false) => Err(streamed()),
                        (false, true) => {
                            self.of_user(&chosen.server, user, subject, Some(&chosen.token))
                                .await
                        }
                    }
                }
            };
        }
        let prospect = self.tell(&chosen, &refused);
        if repeated {
            self.give_up(&chosen, &refused);
            return Err(in_vain(refused, Renewal::RefusedToo));
        }
        if prospect == Prospect::Denied {
            return Err(in_vain(refused, Renewal::NotAsked));
        }
        if !repeats {
            return Err(streamed());
        }
        match self.another(&chosen).await? {
            Some(another) => Ok(another),
            None => {
                self.give_up(&chosen, &refused);
                let within = self.limits.patience;
                Err(in_vain(refused, Renewal::NoneCame { within }))
            }
        }
    }

    pub fn sweep(&self) {
        self.users.sweep();
    }

    async fn of_user(
        &self,
        server: &Arc<Server>,
        user: User,
        subject: SecretString,
        refused: Option<&Arc<Token>>,
    ) -> Result<Chosen, Refusal> {
        let token = self
            .users
            .token(server, user, &subject, refused, &self.room)
            .await?;
        Ok(Chosen {
            server: server.clone(),
            token,
            owner: Owner::User(user, subject),
            admission: Admission::Goes,
        })
    }

    /// The service's token. Where the server is known to refuse it, waits for another or for the server to take it
    /// again: a request sent now would be refused too.
    async fn of_service(&self, server: &Arc<Server>) -> Result<Chosen, Refusal> {
        let token = service_token(server)?;
        let admission = token.admit(self.limits.probe);
        if !matches!(admission, Admission::Waits { .. }) {
            return Ok(Chosen::of_service(server.clone(), token, admission));
        }
        let waited = self.wait(server, |_| true).await?;
        waited.ok_or_else(|| {
            let within = self.limits.patience;
            let renewal = Renewal::NoneCame { within };
            Refused::Unauthorized.refusal(server.resource.clone(), Whose::Service, renewal)
        })
    }

    /// Another token than the refused one: at once if another request saw the refusal first.
    async fn another(&self, refused: &Chosen) -> Result<Option<Chosen>, Refusal> {
        let another = |token: &Arc<Token>| !Arc::ptr_eq(token, &refused.token);
        if let Ok(found) = self.look(&refused.server, &another)? {
            return Ok(Some(found));
        }
        self.wait(&refused.server, another).await
    }

    /// A token that `fits` and may be used. `None` if there is none in time.
    async fn wait(
        &self,
        server: &Server,
        fits: impl Fn(&Arc<Token>) -> bool,
    ) -> Result<Option<Chosen>, Refusal> {
        let _place = self.room.enter(&server.resource)?;
        let deadline = Instant::now() + self.limits.patience;
        // From here on no change is missed.
        let mut changes = self.routes.changes();
        loop {
            let again = match self.look(server, &fits)? {
                Ok(found) => return Ok(Some(found)),
                Err(again) => again,
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let until = again.map_or(deadline, |again| deadline.min(again));
            // Whether something has changed or it is time to probe: what there is then decides.
            let _ = timeout_at(until, changes.changed()).await;
        }
    }

    /// What there is now: a token that fits and may be used, or when to look again even if nothing changes.
    fn look(
        &self,
        server: &Server,
        fits: &impl Fn(&Arc<Token>) -> bool,
    ) -> Result<Result<Chosen, Option<Instant>>, Refusal> {
        let current = self.routes.table().server(&server.name).cloned();
        let current = current
            .filter(|current| is_same_route(server, current))
            .ok_or_else(|| Refusal::NotRepeated {
                resource: server.resource.clone(),
                why: NotRepeated::RouteChanged,
            })?;
        let token = service_token(&current)?;
        if !fits(&token) {
            return Ok(Err(None));
        }
        Ok(match token.admit(self.limits.probe) {
            Admission::Waits { next_probe } => Err(Some(Instant::now() + next_probe)),
            admission => Ok(Chosen::of_service(current, token, admission)),
        })
    }

    fn tell(&self, chosen: &Chosen, refused: &Refused) -> Prospect {
        let why = match refused {
            Refused::Unauthorized => {
                chosen.token.refused(self.limits.probe);
                RefusedBecause::Unauthorized
            }
            Refused::InsufficientScope(scopes) => RefusedBecause::InsufficientScope(scopes.clone()),
        };
        self.routes.refused(&chosen.server.name, &chosen.token, why)
    }

    fn give_up(&self, chosen: &Chosen, refused: &Refused) {
        if let Refused::InsufficientScope(scopes) = refused {
            self.routes.denied(&chosen.server.name, &chosen.token, scopes);
        }
    }
}

impl Chosen {
    fn of_service(server: Arc<Server>, token: Arc<Token>, admission: Admission) -> Self {
        Self {
            server,
            token,
            owner: Owner::Service,
            admission,
        }
    }

    /// The server did not take it, and another would not help.
    pub fn not_taken(&self, status: StatusCode) -> Refusal {
        Refusal::TokenRefused {
            resource: self.server.resource.clone(),
            whose: self.whose(),
            status: status.as_u16(),
            renewal: Renewal::NotAsked,
        }
    }

    fn whose(&self) -> Whose {
        match self.owner {
            Owner::Service => Whose::Service,
            Owner::User(..) => Whose::User,
        }
    }
}

impl Refused {
    pub fn why(&self) -> Why {
        match self {
            Self::Unauthorized => Why::Unauthorized,
            Self::InsufficientScope(_) => Why::InsufficientScope,
        }
    }

    fn refusal(self, resource: Box<str>, whose: Whose, renewal: Renewal) -> Refusal {
        match self {
            Self::Unauthorized => Refusal::TokenRefused {
                resource,
                whose,
                status: 401,
                renewal,
            },
            Self::InsufficientScope(scopes) => Refusal::InsufficientScope {
                resource,
                whose,
                scopes,
            },
        }
    }
}

/// The service's token, unless there is none or it has ended.
fn service_token(server: &Server) -> Result<Arc<Token>, Refusal> {
    let resource = || server.resource.clone();
    match &usable(server)?.credential {
        Credential::Unavailable { reason, message, .. } => Err(Refusal::TokenUnavailable {
            resource: resource(),
            why: reason.clone(),
            message: message.clone(),
        }),
        Credential::Token(token) if token.has_expired(unix_now()) => {
            Err(Refusal::TokenExpired { resource: resource() })
        }
        Credential::Token(token) => Ok(token.clone()),
    }
}

/// What there is to know of a server, unless it cannot be used.
pub fn usable(server: &Server) -> Result<&Usable, Refusal> {
    match &server.state {
        State::Usable(usable) => Ok(usable),
        State::Unusable(unusable) => Err(Refusal::RouteUnusable {
            resource: server.resource.clone(),
            message: unusable.to_string().into(),
        }),
    }
}

/// Whether a request made ready for the one may go to the other.
fn is_same_route(one: &Server, other: &Server) -> bool {
    match (one.usable(), other.usable()) {
        (Some(one), Some(other)) => {
            one.url == other.url && one.allowed == other.allowed && one.transport == other.transport
        }
        // Why the other cannot be used is its own answer.
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
