//! A token source at work, and what it was last told.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::reasons;
use mcp_auth_oauth::{self as oauth, Circuit, Clock, DiscoveryError, Policy, StepUp, TokenSource};
use mcp_auth_protocol::sync::{Declined, RefusedBecause};

use super::obtained::{Obtained, held};
use super::resolve::Blocked;
use super::sources::{Extras, Relay};
use super::status::{LastError, Server, Token};
use super::want::{Asking, Fingerprint};
use crate::credentials::bearer;
use crate::demands::Demand;
use crate::exchanges::Exchanger;
use crate::references::fields;

/// What is kept of scopes that are not asked for.
const MOST_SCOPES: usize = 32;
const LONGEST_SCOPE: usize = 256;
/// How many refusals of fresh tokens in a row are a problem of its own.
const REFUSALS: u32 = 2;

pub struct Live {
    fingerprint: Fingerprint,
    policy: Policy,
    client: oauth::Client,
    source: TokenSource,
    clock: Clock,
    exchanger: Option<Arc<Exchanger>>,
    revoke: bool,
    step_up: bool,
    /// Scopes demanded of the token of this identifier while `stepUp` is false.
    not_asked: Option<(String, Vec<String>)>,
    /// Requests that the metrics know of.
    counted: u64,
    _relay: Relay,
}

impl Live {
    /// Starts to ask; `left` serves until there is a new token.
    pub fn start(
        asking: Asking,
        left: Option<Arc<oauth::Token>>,
        clock: &Clock,
        relay: impl FnOnce(&TokenSource) -> Relay,
    ) -> Result<Self, Blocked> {
        let Asking {
            registration,
            policy,
            fingerprint,
            exchanges,
            revoke_on_deletion,
            step_up,
        } = asking;
        let client = client(registration)?;
        let source = match left {
            Some(token) => {
                let source = TokenSource::resume(client.clone(), policy, clock.clone(), token);
                source.replace(client.clone());
                source
            }
            None => TokenSource::spawn(client.clone(), policy, clock.clone()),
        };
        Ok(Self {
            fingerprint,
            policy,
            exchanger: exchanges.then(|| Arc::new(Exchanger::new(client.clone(), policy, clock.clone()))),
            _relay: relay(&source),
            client,
            source,
            clock: clock.clone(),
            revoke: revoke_on_deletion,
            step_up,
            not_asked: None,
            counted: 0,
        })
    }

    /// Asks in a changed way from now on. What cannot be asked in that way goes on as before.
    pub fn change(&mut self, asking: Asking) -> Result<(), Blocked> {
        self.revoke = asking.revoke_on_deletion;
        self.step_up = asking.step_up;
        if self.policy.refresh_before != asking.policy.refresh_before {
            self.source.set_policy(asking.policy);
            self.policy = asking.policy;
        }
        if self.fingerprint != asking.fingerprint {
            // The same client with another secret: what there is serves until the new one works.
            let client = client(asking.registration)?.with_known_issuer_from(&self.client);
            self.source.replace(client.clone());
            match (&self.exchanger, asking.exchanges) {
                (Some(exchanger), true) => exchanger.change(client.clone()),
                (None, true) => {
                    let exchanger = Exchanger::new(client.clone(), self.policy, self.clock.clone());
                    self.exchanger = Some(Arc::new(exchanger));
                }
                (_, false) => self.exchanger = None,
            }
            self.client = client;
            self.fingerprint = asking.fingerprint;
        }
        Ok(())
    }

    /// Asks for a better token than the one that an MCP server refused.
    pub fn demand(&mut self, demand: &Demand) {
        match &demand.why {
            RefusedBecause::Unauthorized => self.source.report_rejected(&demand.token),
            RefusedBecause::InsufficientScope(scopes) if self.step_up => {
                self.source.demand_scopes(&demand.token, scopes.clone());
            }
            RefusedBecause::InsufficientScope(scopes) => {
                let scopes = scopes.iter().filter(|scope| scope.len() <= LONGEST_SCOPE);
                let scopes = scopes.take(MOST_SCOPES).cloned().collect();
                self.not_asked = Some((demand.token.clone(), scopes));
            }
        }
    }

    pub fn client(&self) -> &oauth::Client {
        &self.client
    }

    pub fn token(&self) -> Option<Arc<oauth::Token>> {
        self.source.subscribe().borrow().token.clone()
    }

    /// Whether the token is revoked when the resource is deleted.
    pub fn revokes(&self) -> bool {
        self.revoke
    }

    /// Token requests since this was last asked.
    pub fn new_requests(&mut self) -> u64 {
        let requests = self.source.subscribe().borrow().requests;
        let new = requests.saturating_sub(self.counted);
        self.counted = requests;
        new
    }

    /// The state for the status, and the credential it makes.
    pub fn describe(&self, now: Timestamp, extras: Extras, problem: Option<Blocked>) -> Obtained {
        let state = self.source.subscribe().borrow().clone();
        // Known before there is a token: the client has shown who it is to this server, and is to keep to it.
        let of_token = state.token.as_ref().and_then(|token| token.server.clone());
        let server = of_token.or_else(|| self.client.discovered_server());
        let token = Token {
            held: state.token.as_deref().map(held),
            // In the past it means that the request is under way.
            next_attempt_at: Some(state.next_attempt_at).filter(|at| *at > now),
            last_error: last_error(&state),
            server: server.map(|server| Server {
                issuer: server.issuer.clone(),
                token_endpoint: server.token_endpoint.to_string(),
            }),
            refused: state.rejections_in_a_row >= REFUSALS,
            scopes_refused: match &state.step_up {
                StepUp::Refused { scopes, why } => Some(format!("{} ({why})", scopes.join(" "))),
                StepUp::None | StepUp::Granted { .. } => None,
            },
            pauses: matches!(state.circuit, Circuit::Open { .. }),
        };
        Obtained {
            references: problem.map_or(Ok(()), Err),
            token,
            credential: state.token.as_deref().map(bearer),
            extras,
            declined: self.declined(&state, now),
            exchanger: self.exchanger.clone(),
        }
    }

    /// What was demanded of the token in use and is not to be had now.
    fn declined(&self, state: &oauth::TokenSourceState, now: Timestamp) -> Option<Declined> {
        let token = state.token.as_ref()?;
        let declined = |why, message| Declined {
            token: token.id.clone(),
            why,
            message,
        };
        // While a request is under way its time has come already.
        if state.rejected && state.next_attempt_at > now {
            let message = match &state.last_error {
                Some(failure) => failure.error.message(),
                None => "tokens that were just issued are refused too".to_owned(),
            };
            return Some(declined(RefusedBecause::Unauthorized, message));
        }
        if let StepUp::Refused { scopes, why } = &state.step_up {
            let why_not = RefusedBecause::InsufficientScope(scopes.clone());
            return Some(declined(why_not, why.to_string()));
        }
        let (_, scopes) = self.not_asked.as_ref().filter(|(id, _)| *id == token.id)?;
        let message = "spec.oauth2.stepUp is false".to_owned();
        Some(declined(
            RefusedBecause::InsufficientScope(scopes.clone()),
            message,
        ))
    }
}

fn last_error(state: &oauth::TokenSourceState) -> Option<LastError> {
    let failure = state.last_error.as_ref()?;
    Some(LastError {
        at: failure.at,
        reason: failure.error.code().to_owned(),
        condition: condition(&failure.error),
        message: failure.error.message(),
    })
}

/// The condition's reason for a failed request.
fn condition(error: &oauth::Error) -> &'static str {
    match error {
        oauth::Error::Discovery(DiscoveryError::IssuerChanged { .. }) => reasons::ISSUER_CHANGED,
        oauth::Error::Discovery(_) => reasons::DISCOVERY_FAILED,
        oauth::Error::TokenMismatch(_) => reasons::TOKEN_MISMATCH,
        _ => reasons::REQUEST_FAILED,
    }
}

fn client(registration: oauth::Registration) -> Result<oauth::Client, Blocked> {
    oauth::Client::new(registration).map_err(|error| {
        let (reason, field) = match error {
            oauth::Error::InvalidCaBundle { .. } => (reasons::INVALID_SPEC, fields::TOKEN_ENDPOINT_CA),
            oauth::Error::InvalidCertificate { .. } => (reasons::SECRET_INVALID, fields::CERTIFICATE),
            _ => (reasons::INVALID_SPEC, "spec.oauth2"),
        };
        Blocked::new(reason, format!("{field}: {}", error.message()))
    })
}
