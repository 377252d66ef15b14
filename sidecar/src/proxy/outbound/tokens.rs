//! Which token a request goes with, and which one after the server has refused that: the service's, as the operator
//! streams it, or the user's own. Never the one in place of the other.

use std::sync::Arc;

use http::StatusCode;
use mcp_auth_protocol::sync::RefusedBecause;
use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};

use super::doubts::{Caller, Doubts};
use super::headers::UserPart;
use super::limits::Limits;
use super::objection::Objection;
use super::users::{User, Users};
use super::waiting::WaitingRoom;
use crate::control::exchange_client::TokenExchanger;
use crate::proxy::clock::unix_now;
use crate::proxy::error::{NotRepeated, Refusal, Renewal, Whose};
use crate::proxy::metrics::Metrics;
use crate::proxy::routes::token::{Admission, Token};
use crate::proxy::routes::{Credential, Prospect, Routes, Server, Usable};

pub struct Tokens {
    routes: Routes,
    users: Users,
    doubts: Doubts,
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

impl Tokens {
    pub fn new(routes: Routes, exchange: Arc<dyn TokenExchanger>, limits: Limits, metrics: Metrics) -> Self {
        Self {
            routes,
            users: Users::new(exchange, limits, metrics.clone()),
            doubts: Doubts::new(limits.users),
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

    /// Another token after the server refused this one, for a request that carries this much of the `user`, that
    /// `repeats` and has not been repeated for what there was `before`. Whatever comes of that, the refusal is told on.
    pub async fn instead(
        &self,
        chosen: Chosen,
        user: &UserPart,
        objection: &Objection,
        repeats: bool,
        before: Option<&Objection>,
    ) -> Result<Chosen, Refusal> {
        let whose = chosen.whose();
        self.metrics.token_refused(whose, objection.why());
        let resource = chosen.server.resource.clone();
        let in_vain = |renewal| objection.refusal(&resource, whose, renewal);
        let streamed = || Refusal::NotRepeated {
            resource: resource.clone(),
            why: NotRepeated::Streamed,
        };
        if let Owner::User(user, subject) = chosen.owner {
            return match objection {
                // The operator is asked for users' tokens one by one, and scopes are no part of that.
                Objection::InsufficientScope(_) => Err(in_vain(Renewal::NotAsked)),
                Objection::Unauthorized => {
                    self.users.refused(user, &chosen.token);
                    match (before.is_some(), repeats) {
                        (true, _) => Err(in_vain(Renewal::RefusedToo)),
                        (false, false) => Err(streamed()),
                        (false, true) => {
                            self.of_user(&chosen.server, user, subject, Some(&chosen.token))
                                .await
                        }
                    }
                }
            };
        }
        // Whom the refusal may be about, rather than the token.
        let caller = chosen
            .server
            .usable()
            .and_then(|usable| self.doubts.caller(&chosen.server, usable, user));
        if let (Some(caller), Objection::Unauthorized) = (caller, objection) {
            let again = matches!(before, Some(Objection::Unauthorized));
            if again {
                self.doubts.doubt(caller);
            } else if chosen.token.was_taken() {
                self.doubts.suspect(caller);
            }
            // The operator would go on to ask for tokens, and take the resource for one that gets none to be taken.
            if self.doubts.is_doubted(caller) {
                return Err(in_vain(Renewal::RefusedToUser));
            }
        }
        let prospect = self.tell(&chosen, caller, objection);
        if let Some(refusal) = self.declined(&chosen, objection) {
            return Err(refusal);
        }
        if let Some(before) = before {
            // What was not asked for before may yet be granted.
            if before.covers(objection) {
                self.give_up(&chosen, objection);
            }
            return Err(in_vain(Renewal::RefusedToo));
        }
        if prospect == Prospect::Denied {
            return Err(in_vain(Renewal::NotAsked));
        }
        if !repeats {
            return Err(streamed());
        }
        let refused = Some((&chosen, objection));
        match self.wait(&chosen.server, refused).await? {
            Some(another) => Ok(another),
            None => {
                self.give_up(&chosen, objection);
                let within = self.limits.patience;
                Err(in_vain(Renewal::NoneCame { within }))
            }
        }
    }

    pub fn sweep(&self) {
        self.users.sweep();
        self.doubts.sweep();
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
        let waited = self.wait(server, None).await?;
        waited.ok_or_else(|| {
            let within = self.limits.patience;
            let renewal = Renewal::NoneCame { within };
            Objection::Unauthorized.refusal(&server.resource, Whose::Service, renewal)
        })
    }

    /// A token that may be used, and is another than the `refused` one: at once if another request saw the refusal
    /// first, `None` if there is none in time. An error as soon as the operator says that none will come.
    async fn wait(
        &self,
        server: &Server,
        refused: Option<(&Chosen, &Objection)>,
    ) -> Result<Option<Chosen>, Refusal> {
        if let Ok(found) = self.look(server, refused)? {
            return Ok(Some(found));
        }
        let _place = self.room.enter(&server.resource)?;
        let deadline = Instant::now() + self.limits.patience;
        // From here on no change is missed.
        let mut changes = self.routes.changes();
        loop {
            let again = match self.look(server, refused)? {
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

    /// What there is now: a token that may be used, or when to look again even if nothing changes.
    fn look(
        &self,
        server: &Server,
        refused: Option<(&Chosen, &Objection)>,
    ) -> Result<Result<Chosen, Option<Instant>>, Refusal> {
        let current = self.routes.table().server(&server.name).cloned();
        let current = current
            .filter(|current| is_same_route(server, current))
            .ok_or_else(|| Refusal::NotRepeated {
                resource: server.resource.clone(),
                why: NotRepeated::RouteChanged,
            })?;
        let token = service_token(&current)?;
        let declined = |objection: &Objection| objection.declined(&current, current.usable()?);
        if let Some((refused, objection)) = refused
            && Arc::ptr_eq(&token, &refused.token)
        {
            return declined(objection).map_or(Ok(Err(None)), Err);
        }
        match token.admit(self.limits.probe) {
            Admission::Waits { next_probe } => match declined(&Objection::Unauthorized) {
                Some(refusal) => Err(refusal),
                None => Ok(Err(Some(Instant::now() + next_probe))),
            },
            admission => Ok(Ok(Chosen::of_service(current, token, admission))),
        }
    }

    /// The answer, if the operator has nothing better than the chosen token of the service's.
    fn declined(&self, chosen: &Chosen, objection: &Objection) -> Option<Refusal> {
        let table = self.routes.table();
        let server = table.server(&chosen.server.name)?;
        let usable = server.usable()?;
        let in_use = Arc::ptr_eq(usable.token()?, &chosen.token);
        in_use.then(|| objection.declined(server, usable)).flatten()
    }

    fn tell(&self, chosen: &Chosen, caller: Option<Caller>, objection: &Objection) -> Prospect {
        let why = match objection {
            Objection::Unauthorized => {
                // It may be about the user who goes along: nobody else is held up by that.
                if caller.is_none() {
                    chosen.token.refused(self.limits.probe);
                }
                RefusedBecause::Unauthorized
            }
            Objection::InsufficientScope(scopes) => RefusedBecause::InsufficientScope(scopes.clone()),
        };
        self.routes.refused(&chosen.server.name, &chosen.token, why)
    }

    fn give_up(&self, chosen: &Chosen, objection: &Objection) {
        if let Objection::InsufficientScope(scopes) = objection {
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

/// The service's token, unless there is none or it has ended.
fn service_token(server: &Server) -> Result<Arc<Token>, Refusal> {
    let resource = || server.resource.clone();
    match &server.require_usable()?.credential {
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

/// Whether a request made ready for the one may go to the other.
fn is_same_route(one: &Server, other: &Server) -> bool {
    match (one.usable(), other.usable()) {
        (Some(one), Some(other)) => {
            let allows = one.allowed == other.allowed && one.user_context == other.user_context;
            let exchanges = one.exchange == other.exchange && one.minted_for == other.minted_for;
            one.url == other.url && one.transport == other.transport && allows && exchanges
        }
        // Why the other cannot be used is its own answer.
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
