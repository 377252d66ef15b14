//! Token selection: the token that a request is sent with, and the one it is sent with again after the MCP
//! server has rejected the first. It is the service's token, as the operator streams it, or the user's own,
//! and the one never stands in for the other.

use std::sync::Arc;

use http::StatusCode;
use mcp_auth_protocol::sync::RejectionCause;
use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};

use super::headers::UserPart;
use super::limits::Limits;
use super::suspect_users::{SuspectUsers, UserPartDigest};
use super::token_rejection::TokenRejection;
use super::user_tokens::{UserKey, UserTokens};
use super::wait_limit::WaitLimit;
use crate::control::exchange_client::TokenExchanger;
use crate::proxy::clock::unix_now;
use crate::proxy::error::{ProxyError, RenewalOutcome, ReplayError, TokenOwner};
use crate::proxy::metrics::Metrics;
use crate::proxy::routes::access_token::{AccessToken, Admission};
use crate::proxy::routes::{McpServer, RenewalProspect, Routes, ServiceCredential, UsableServer};

pub struct TokenSelector {
    routes: Routes,
    user_tokens: UserTokens,
    suspect_users: SuspectUsers,
    wait_limit: WaitLimit,
    limits: Limits,
    metrics: Metrics,
}

/// A token for one request.
pub struct SelectedToken {
    /// As the routing table has it now.
    pub server: Arc<McpServer>,
    pub token: Arc<AccessToken>,
    source: TokenSource,
    admission: Admission,
}

enum TokenSource {
    Service,
    User(UserKey, SecretString),
}

impl TokenSelector {
    pub fn new(routes: Routes, exchanger: Arc<dyn TokenExchanger>, limits: Limits, metrics: Metrics) -> Self {
        Self {
            routes,
            user_tokens: UserTokens::new(exchanger, limits, metrics.clone()),
            suspect_users: SuspectUsers::new(limits.max_users),
            wait_limit: WaitLimit::new(limits.max_waiting, metrics.clone()),
            limits,
            metrics,
        }
    }

    /// The token of the first attempt: the user's own where there is a `subject` to exchange, else the
    /// service's.
    pub async fn select(
        &self,
        server: &Arc<McpServer>,
        usable: &UsableServer,
        subject: Option<SecretString>,
    ) -> Result<SelectedToken, ProxyError> {
        match subject {
            None => self.select_service_token(server).await,
            Some(subject) => {
                let user = self.user_tokens.key(server, usable, &subject);
                self.select_user_token(server, user, subject, None).await
            }
        }
    }

    /// Records that the server accepted the token. Nothing is recorded of a user's own token.
    pub fn record_accepted(&self, selected: &SelectedToken) {
        if let TokenSource::Service = selected.source
            && selected.token.record_accepted(selected.admission)
        {
            self.routes
                .report_accepted_again(&selected.server.name, &selected.token);
        }
    }

    /// Another token after the server rejected the `selected` one. `user` is what the request carries of the
    /// user, `is_replayable` says whether it can be sent again, and `before` is the rejection that it was
    /// sent again for already. Whatever comes of it, the operator gets a report of the rejection.
    pub async fn replace_rejected(
        &self,
        selected: SelectedToken,
        user: &UserPart,
        rejection: &TokenRejection,
        is_replayable: bool,
        earlier_rejection: Option<&TokenRejection>,
    ) -> Result<SelectedToken, ProxyError> {
        let owner = selected.owner();
        self.metrics.token_rejected(owner, rejection.cause());
        let resource = selected.server.resource.clone();
        let final_error = |renewal| rejection.to_error(&resource, owner, renewal);
        let not_replayable = || ProxyError::NotRepeated {
            resource: resource.clone(),
            why: ReplayError::Streamed,
        };
        if let TokenSource::User(user, subject) = selected.source {
            return match rejection {
                // Users' tokens are requested one by one, and such a request states no scopes.
                TokenRejection::InsufficientScope(_) => Err(final_error(RenewalOutcome::NotRequested)),
                TokenRejection::Unauthorized => {
                    self.user_tokens
                        .mark_rejected(&selected.server, user, &selected.token);
                    match (earlier_rejection.is_some(), is_replayable) {
                        (true, _) => Err(final_error(RenewalOutcome::RejectedToo)),
                        (false, false) => Err(not_replayable()),
                        (false, true) => {
                            self.select_user_token(&selected.server, user, subject, Some(&selected.token))
                                .await
                        }
                    }
                }
            };
        }
        // The server may have rejected the user's cookies or headers rather than the token.
        let user_digest = selected
            .server
            .usable()
            .and_then(|usable| self.suspect_users.digest(&selected.server, usable, user));
        if let (Some(user_digest), TokenRejection::Unauthorized) = (user_digest, rejection) {
            let rejected_again = matches!(earlier_rejection, Some(TokenRejection::Unauthorized));
            if rejected_again {
                self.suspect_users.confirm(user_digest);
            } else if selected.token.was_accepted() {
                self.suspect_users.suspect(user_digest);
            }
            // A report would make the operator request more tokens, and mark the resource as one whose tokens
            // are rejected.
            if self.suspect_users.is_confirmed(user_digest) {
                return Err(final_error(RenewalOutcome::RejectedForUser));
            }
        }
        let prospect = self.report(&selected, user_digest, rejection);
        if let Some(error) = self.declined_error(&selected, rejection) {
            return Err(error);
        }
        if let Some(earlier_rejection) = earlier_rejection {
            // Scopes that were not requested from the operator before may yet be granted.
            if earlier_rejection.covers(rejection) {
                self.record_denied(&selected, rejection);
            }
            return Err(final_error(RenewalOutcome::RejectedToo));
        }
        if prospect == RenewalProspect::KnownDenied {
            return Err(final_error(RenewalOutcome::NotRequested));
        }
        if !is_replayable {
            return Err(not_replayable());
        }
        let rejected = Some((&selected, rejection));
        match self.wait_for_token(&selected.server, rejected).await? {
            Some(replacement) => Ok(replacement),
            None => {
                self.record_denied(&selected, rejection);
                let within = self.limits.token_wait;
                Err(final_error(RenewalOutcome::TimedOut { within }))
            }
        }
    }

    pub fn sweep(&self) {
        self.user_tokens.sweep();
        self.suspect_users.sweep();
    }

    async fn select_user_token(
        &self,
        server: &Arc<McpServer>,
        user: UserKey,
        subject: SecretString,
        rejected: Option<&Arc<AccessToken>>,
    ) -> Result<SelectedToken, ProxyError> {
        let token = self
            .user_tokens
            .token(server, user, &subject, rejected, &self.wait_limit)
            .await?;
        Ok(SelectedToken {
            server: server.clone(),
            token,
            source: TokenSource::User(user, subject),
            admission: Admission::Unrestricted,
        })
    }

    /// The service's token. Where the server is known to reject it, waits for another token or for the server
    /// to accept this one again: a request sent now would be rejected too.
    async fn select_service_token(&self, server: &Arc<McpServer>) -> Result<SelectedToken, ProxyError> {
        let token = service_token(server)?;
        let admission = token.admit(self.limits.probe_interval);
        if !matches!(admission, Admission::Wait { .. }) {
            return Ok(SelectedToken::of_service(server.clone(), token, admission));
        }
        let selected = self.wait_for_token(server, None).await?;
        selected.ok_or_else(|| {
            let within = self.limits.token_wait;
            let renewal = RenewalOutcome::TimedOut { within };
            TokenRejection::Unauthorized.to_error(&server.resource, TokenOwner::Service, renewal)
        })
    }

    /// Waits for a usable token other than the `rejected` one. There is one at once if another request saw
    /// the rejection first, and `None` if none comes in time. An error as soon as the operator says that none
    /// will come.
    async fn wait_for_token(
        &self,
        server: &McpServer,
        rejected: Option<(&SelectedToken, &TokenRejection)>,
    ) -> Result<Option<SelectedToken>, ProxyError> {
        if let Ok(selected) = self.current_token(server, rejected)? {
            return Ok(Some(selected));
        }
        let _permit = self.wait_limit.acquire(server)?;
        let deadline = Instant::now() + self.limits.token_wait;
        // From here on no change is missed.
        let mut changes = self.routes.changes();
        loop {
            let next_look = match self.current_token(server, rejected)? {
                Ok(selected) => return Ok(Some(selected)),
                Err(next_look) => next_look,
            };
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let until = next_look.map_or(deadline, |next_look| deadline.min(next_look));
            // Either the routes have changed or it is time to probe; the next look finds out which.
            let _ = timeout_at(until, changes.changed()).await;
        }
    }

    /// The token that may be used now, or the time to look again even if the routes do not change.
    fn current_token(
        &self,
        server: &McpServer,
        rejected: Option<(&SelectedToken, &TokenRejection)>,
    ) -> Result<Result<SelectedToken, Option<Instant>>, ProxyError> {
        let current = self.routes.table().server(&server.name).cloned();
        let current = current
            .filter(|current| is_same_route(server, current))
            .ok_or_else(|| ProxyError::NotRepeated {
                resource: server.resource.clone(),
                why: ReplayError::RouteChanged,
            })?;
        let token = service_token(&current)?;
        let declined = |rejection: &TokenRejection| rejection.declined_error(&current, current.usable()?);
        if let Some((rejected, rejection)) = rejected
            && Arc::ptr_eq(&token, &rejected.token)
        {
            return declined(rejection).map_or(Ok(Err(None)), Err);
        }
        match token.admit(self.limits.probe_interval) {
            Admission::Wait { next_probe } => match declined(&TokenRejection::Unauthorized) {
                Some(error) => Err(error),
                None => Ok(Err(Some(Instant::now() + next_probe))),
            },
            admission => Ok(Ok(SelectedToken::of_service(current, token, admission))),
        }
    }

    /// The error to answer with, if the operator has said that it has no better token than the selected one
    /// of the service.
    fn declined_error(&self, selected: &SelectedToken, rejection: &TokenRejection) -> Option<ProxyError> {
        let table = self.routes.table();
        let server = table.server(&selected.server.name)?;
        let usable = server.usable()?;
        let in_use = Arc::ptr_eq(usable.token()?, &selected.token);
        in_use.then(|| rejection.declined_error(server, usable)).flatten()
    }

    /// Reports the rejection to the operator.
    fn report(
        &self,
        selected: &SelectedToken,
        user_digest: Option<UserPartDigest>,
        rejection: &TokenRejection,
    ) -> RenewalProspect {
        let why = match rejection {
            TokenRejection::Unauthorized => {
                // With a user's part in the request the rejection may be about the user, so other requests go
                // on.
                if user_digest.is_none() {
                    selected.token.record_rejected(self.limits.probe_interval);
                }
                RejectionCause::Unauthorized
            }
            TokenRejection::InsufficientScope(scopes) => RejectionCause::InsufficientScope(scopes.clone()),
        };
        self.routes
            .report_rejection(&selected.server.name, &selected.token, why)
    }

    /// Records that no token has come with the scopes that the server demands.
    fn record_denied(&self, selected: &SelectedToken, rejection: &TokenRejection) {
        if let TokenRejection::InsufficientScope(scopes) = rejection {
            self.routes
                .record_denied_scopes(&selected.server.name, &selected.token, scopes);
        }
    }
}

impl SelectedToken {
    fn of_service(server: Arc<McpServer>, token: Arc<AccessToken>, admission: Admission) -> Self {
        Self {
            server,
            token,
            source: TokenSource::Service,
            admission,
        }
    }

    /// The error for a rejection that another token would not help against.
    pub fn to_error(&self, status: StatusCode) -> ProxyError {
        ProxyError::TokenRefused {
            resource: self.server.resource.clone(),
            owner: self.owner(),
            status: status.as_u16(),
            renewal: RenewalOutcome::NotRequested,
        }
    }

    fn owner(&self) -> TokenOwner {
        match self.source {
            TokenSource::Service => TokenOwner::Service,
            TokenSource::User(..) => TokenOwner::User,
        }
    }
}

/// The service's token, or an error where there is none or it has expired.
fn service_token(server: &McpServer) -> Result<Arc<AccessToken>, ProxyError> {
    let resource = || server.resource.clone();
    match &server.require_usable()?.credential {
        ServiceCredential::Unavailable { reason, message, .. } => Err(ProxyError::TokenUnavailable {
            resource: resource(),
            why: reason.clone(),
            message: message.clone(),
        }),
        ServiceCredential::Token(token) if token.has_expired(unix_now()) => {
            Err(ProxyError::TokenExpired { resource: resource() })
        }
        ServiceCredential::Token(token) => Ok(token.clone()),
    }
}

/// Whether a request that was prepared for one route may be sent by the route that is current by now.
fn is_same_route(prepared: &McpServer, current: &McpServer) -> bool {
    match (prepared.usable(), current.usable()) {
        (Some(prepared), Some(current)) => {
            let allows = prepared.allowed == current.allowed && prepared.user_context == current.user_context;
            let exchanges = prepared.exchange == current.exchange
                && prepared.credential_identity == current.credential_identity;
            let is_same_resource = !prepared.is_of_another_resource(current.resource_uid());
            is_same_resource
                && prepared.url == current.url
                && prepared.transport == current.transport
                && allows
                && exchanges
        }
        // The caller then answers with why the route cannot be used.
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
