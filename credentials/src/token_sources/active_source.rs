//! The active token source of one OAuth2 client, and the client configuration that it has now.

mod failure;
mod look_up;
mod surroundings;

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::reasons;
use mcp_auth_oauth::{
    self as oauth, Circuit, Clock, DiscoveryState, Policy, ServerMetadata, SharedRequester, StepUp,
    TokenSource, TokenUse,
};
use mcp_auth_protocol::sync::{Credential, DeclinedRefresh, RejectionCause};

use failure::{last_error, of_failure};
use look_up::{LookUp, discoveries};
pub use surroundings::Surroundings;

use super::client_usages::{CountedClient, ServiceToken};
use super::snapshot::{SourceSnapshot, in_use};
use super::step_up_policy::{ScopesNotRequested, StepUpPolicy};
use super::{AbortOnDrop, ClientConfiguration};
use crate::bearer::bearer;
use crate::conditions::USERS_ONLY;
use crate::credential_identity::RequestDigest;
use crate::not_served::NotServedError;
use crate::store::{DiscoveredServer, ServerLookUp, TokenSnapshot};
use crate::token_refresh_requests::TokenRefreshRequest;
use crate::token_seed::TokenSeed;
use crate::user_token_exchanger::UserTokenExchanger;

/// How many rejections of fresh tokens in a row are a problem of its own.
const REJECTIONS_TO_REPORT: u32 = 2;

type OnChange = Arc<dyn Fn() + Send + Sync>;

pub struct ActiveSource {
    request_digest: RequestDigest,
    policy: Policy,
    client: oauth::Client,
    surroundings: Surroundings,
    /// Requests the service's token, or takes what another resource's source had requested.
    requester: SharedRequester,
    /// None: only users have tokens.
    source: Option<TokenSource>,
    /// Where only users have tokens.
    look_up: Option<LookUp>,
    clock: Clock,
    exchanger: Option<Arc<UserTokenExchanger>>,
    revoke: bool,
    step_up: StepUpPolicy,
    scopes_not_requested: Option<ScopesNotRequested>,
    /// Requests that the metrics know of.
    counted: u64,
    /// Calls `on_change` whenever the token does.
    _changes: Option<AbortOnDrop>,
    /// The same when a server is discovered: its metadata may foretell the outcome.
    discoveries: AbortOnDrop,
    on_change: OnChange,
}

impl ActiveSource {
    /// Starts to request tokens. The token of `seed` serves until there is a new one, which is requested at once
    /// where it would be requested by another configuration, and when it is due otherwise.
    pub fn start(
        configuration: ClientConfiguration,
        seed: Option<TokenSeed>,
        surroundings: Surroundings,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, NotServedError> {
        let ClientConfiguration {
            registration,
            policy,
            limits,
            request_digest,
            exchanges,
            service_token,
            revoke_on_deletion,
            // Of the resource, whatever its source is.
            quota: _,
            step_up,
        } = configuration;
        let (client, requester) = surroundings.sharing(surroundings.client(registration, limits)?);
        let clock = &surroundings.clock;
        let spawn = || match seed {
            Some(seed) => {
                let (token, next_attempt_at) = (seed.token, seed.next_attempt_at);
                let source =
                    TokenSource::resume(requester.clone(), policy, clock.clone(), token, next_attempt_at);
                if seed.request_digest != Some(request_digest) {
                    source.replace(requester.clone());
                }
                source
            }
            None => TokenSource::spawn(requester.clone(), policy, clock.clone()),
        };
        let source = service_token.then(spawn);
        let on_change: OnChange = Arc::new(on_change);
        let changes = source.as_ref().map(|source| {
            let (mut states, announce) = (source.subscribe(), Arc::clone(&on_change));
            AbortOnDrop::spawn(async move {
                while states.changed().await.is_ok() {
                    announce();
                }
            })
        });
        let look_up = (!service_token).then(|| LookUp::start(&client, policy, clock, &on_change));
        let exchanger = || surroundings.exchanger(&client, policy, &on_change);
        Ok(Self {
            request_digest,
            policy,
            exchanger: exchanges.then(exchanger),
            _changes: changes,
            discoveries: discoveries(&client, &on_change),
            on_change,
            client,
            requester,
            source,
            look_up,
            clock: surroundings.clock.clone(),
            revoke: revoke_on_deletion,
            step_up,
            scopes_not_requested: None,
            counted: surroundings.count.requests(),
            surroundings,
        })
    }

    /// Requests by another configuration from now on. Where no client can be made of it, it goes on as
    /// before.
    pub fn change(&mut self, configuration: ClientConfiguration) -> Result<(), NotServedError> {
        self.revoke = configuration.revoke_on_deletion;
        let withdrawn = configuration.step_up.is_narrower_than(&self.step_up);
        if self.step_up != configuration.step_up {
            // What was demanded before may be allowed now: the next call that is refused tells.
            self.scopes_not_requested = None;
            self.step_up = configuration.step_up;
            if let Some(source) = &self.source {
                source.retain_step_up_scopes(self.step_up.allowed().to_vec());
            }
        }
        if !self.policy.is_same_schedule(&configuration.policy) {
            if let Some(source) = &self.source {
                source.set_policy(configuration.policy);
            }
            self.policy = configuration.policy;
        }
        if self.request_digest != configuration.request_digest {
            // The same client with another secret: what there is serves until the new one works.
            let client = self
                .surroundings
                .client(configuration.registration, configuration.limits)?
                .with_known_issuer_from(&self.client);
            let (client, requester) = self.surroundings.sharing(client);
            match &self.source {
                Some(source) => source.replace(requester.clone()),
                None => {
                    let look_up = LookUp::start(&client, self.policy, &self.clock, &self.on_change);
                    self.look_up = Some(look_up);
                }
            }
            match (&self.exchanger, configuration.exchanges) {
                (Some(exchanger), true) => exchanger.change(client.clone()),
                (None, true) => {
                    let exchanger = self.surroundings.exchanger(&client, self.policy, &self.on_change);
                    self.exchanger = Some(exchanger);
                }
                (_, false) => self.exchanger = None,
            }
            self.discoveries = discoveries(&client, &self.on_change);
            self.client = client;
            self.requester = requester;
            self.request_digest = configuration.request_digest;
        } else if withdrawn {
            // A token without the scopes that are allowed no more takes the place of the one that may have them.
            if let Some(source) = &self.source {
                source.replace(self.requester.clone());
            }
        }
        Ok(())
    }

    /// Asks for a better token than the one that an MCP server rejected.
    pub fn request_refresh(&mut self, request: &TokenRefreshRequest) {
        let Some(source) = &self.source else { return };
        match &request.why {
            RejectionCause::Unauthorized => source.report_rejected(&request.token),
            RejectionCause::InsufficientScope(scopes) => self.demand_scopes(&request.token, scopes),
        }
    }

    /// An MCP server demands scopes of the token of this identifier.
    fn demand_scopes(&mut self, token_id: &str, demanded: &[String]) {
        let Some(token) = self.token().filter(|token| token.id == token_id) else {
            return;
        };
        let beyond = self.step_up.scopes_beyond(demanded, token.scope.as_deref());
        // A server may demand more without naming what.
        if beyond.is_empty() && !self.step_up.is_off() {
            if let Some(source) = &self.source {
                source.demand_scopes(token_id, demanded.to_vec());
            }
        } else {
            self.scopes_not_requested
                .take_if(|earlier| earlier.token != token_id);
            self.scopes_not_requested
                .get_or_insert_with(|| ScopesNotRequested::new(token_id))
                .add(beyond);
        }
    }

    pub fn token(&self) -> Option<Arc<oauth::Token>> {
        self.source.as_ref()?.subscribe().borrow().token.clone()
    }

    /// The client that revokes the token when the resource is deleted, if that is wished for.
    pub fn revoker(&self) -> Option<Box<oauth::Client>> {
        self.revoke.then(|| Box::new(self.client.clone()))
    }

    pub fn revocation(&self) -> Option<(oauth::Client, Arc<oauth::Token>)> {
        Some((*self.revoker()?, self.token()?))
    }

    /// Token requests since the last call.
    pub fn new_requests(&mut self) -> u64 {
        let requests = self.surroundings.count.requests();
        let new = requests.saturating_sub(self.counted);
        self.counted = requests;
        new
    }

    fn state(&self) -> Option<oauth::TokenSourceState> {
        Some(self.source.as_ref()?.subscribe().borrow().clone())
    }

    pub fn snapshot(&self, now: Timestamp) -> SourceSnapshot {
        let Some(state) = self.state() else {
            return self.without_service_token();
        };
        let server = self.server(&state);
        let preflight = match &state.token {
            None => self.client.preflight(match &self.exchanger {
                None => TokenUse::Service,
                Some(_) => TokenUse::ServiceAndUsers,
            }),
            Some(_) => Vec::new(),
        };
        let token = TokenSnapshot {
            preflight,
            in_use: state.token.as_deref().map(in_use),
            next_attempt_at: Some(state.next_attempt_at),
            last_error: last_error(&state),
            server: server.as_deref().map(discovered),
            identity_provider: None,
            clock_offset: self.client.clock_offset(),
            users_only: None,
            user_tokens_limited_to: self.user_tokens_limited_to(),
            rejected: state.rejections_in_a_row >= REJECTIONS_TO_REPORT,
            scopes_refused: match &state.step_up {
                StepUp::Refused { scopes, why } => Some(format!("{} ({why})", scopes.join(" "))),
                StepUp::None | StepUp::Granted { .. } => None,
            },
            scopes_not_allowed: self.scopes_not_allowed(&state),
            circuit_open: matches!(state.circuit, Circuit::Open { .. }),
            // Of the resource, whatever its source is.
            usage: None,
            superseded: None,
        };
        SourceSnapshot {
            token,
            credential: state.token.as_deref().map(bearer),
            declined: self.declined(&state, now),
            exchanger: self.exchanger.clone(),
            seed: state.token.map(|token| TokenSeed {
                token,
                request_digest: Some(self.request_digest),
                next_attempt_at: Some(state.next_attempt_at),
            }),
        }
    }

    /// Known before there is a token: the client has shown who it is to this server, and is to keep to it.
    fn server(&self, state: &oauth::TokenSourceState) -> Option<Arc<ServerMetadata>> {
        let of_token = state.token.as_ref().and_then(|token| token.server.clone());
        of_token.or_else(|| self.client.discovered_server())
    }

    /// Whose tokens are requested.
    pub fn client(&self) -> CountedClient {
        let server = match self.state() {
            Some(state) => self.server(&state),
            None => self.client.discovered_server(),
        };
        match (self.client.identity(server.as_deref()), self.client_name()) {
            (Some(client), _) => CountedClient::Known(client),
            (None, Some(_)) => CountedClient::Unknown,
            (None, None) => CountedClient::Alone,
        }
    }

    /// As its server knows it.
    pub fn client_name(&self) -> Option<String> {
        self.client.name()
    }

    /// The service's token as it is renewed.
    pub fn service_token(&self) -> Option<ServiceToken> {
        let state = self.state()?;
        // What one MCP server demanded is requested for it alone, and after a failure each tries for itself.
        let is_shared =
            matches!(state.step_up, StepUp::None) && state.last_error.is_none() && state.token.is_some();
        Some(ServiceToken {
            shared_as: self.client.token_digest().filter(|_| is_shared),
            token: state.token,
            next_attempt_at: state.next_attempt_at,
        })
    }

    fn user_tokens_limited_to(&self) -> Option<oauth::UserTokenLimit> {
        self.exchanger.as_ref()?.limited_to()
    }

    /// Where only users have tokens. Sidecars go on with none of before either.
    fn without_service_token(&self) -> SourceSnapshot {
        let state = self.look_up.as_ref().map(LookUp::state).unwrap_or_default();
        SourceSnapshot {
            token: TokenSnapshot {
                users_only: Some(match &state {
                    DiscoveryState::Pending => ServerLookUp::Pending,
                    DiscoveryState::NothingToDiscover => ServerLookUp::Stated,
                    DiscoveryState::Found => ServerLookUp::Discovered,
                    DiscoveryState::Failed(_) => ServerLookUp::Failed,
                }),
                last_error: match &state {
                    DiscoveryState::Failed(failure) => Some(of_failure(failure)),
                    _ => None,
                },
                preflight: self.client.preflight(TokenUse::Users),
                user_tokens_limited_to: self.user_tokens_limited_to(),
                server: self.client.discovered_server().as_deref().map(discovered),
                identity_provider: self
                    .client
                    .discovered_identity_provider()
                    .map(|server| server.issuer.clone()),
                clock_offset: self.client.clock_offset(),
                ..TokenSnapshot::default()
            },
            credential: Some(Credential::Unavailable {
                reason: reasons::USER_TOKENS_ONLY.to_owned(),
                message: USERS_ONLY.to_owned(),
                keep: false,
            }),
            exchanger: self.exchanger.clone(),
            ..SourceSnapshot::default()
        }
    }

    /// What was demanded of the token in use and is not to be had now.
    fn declined(&self, state: &oauth::TokenSourceState, now: Timestamp) -> Option<DeclinedRefresh> {
        let token = state.token.as_ref()?;
        let declined = |why, message| DeclinedRefresh {
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
            return Some(declined(RejectionCause::Unauthorized, message));
        }
        if let StepUp::Refused { scopes, why } = &state.step_up {
            let why_not = RejectionCause::InsufficientScope(scopes.clone());
            return Some(declined(why_not, why.to_string()));
        }
        let not_requested = self.scopes_not_requested.as_ref();
        let not_requested = not_requested.filter(|scopes| scopes.token == token.id)?;
        let message = match self.step_up {
            StepUpPolicy::Off { why } => why.to_owned(),
            StepUpPolicy::Allowed { .. } => format!(
                "spec.oauth2.stepUpAllowedScopes does not list {}",
                not_requested.for_people()
            ),
        };
        let why = RejectionCause::InsufficientScope(not_requested.scopes());
        Some(declined(why, message))
    }

    /// Scopes that the MCP server demands of the token in use, and that the resource does not allow. Where it turns
    /// step-up off, that is what it wants and nothing to tell.
    fn scopes_not_allowed(&self, state: &oauth::TokenSourceState) -> Option<String> {
        let token = state.token.as_ref()?;
        let not_requested = self.scopes_not_requested.as_ref()?;
        let told = matches!(self.step_up, StepUpPolicy::Allowed { .. }) && not_requested.token == token.id;
        told.then(|| not_requested.for_people())
    }
}

fn discovered(server: &ServerMetadata) -> DiscoveredServer {
    DiscoveredServer {
        issuer: server.issuer.clone(),
        token_endpoint: server.token_endpoint.to_string(),
    }
}
