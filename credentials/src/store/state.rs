//! The state of one resource's credential: what its sidecars are given, and what its status says of the
//! token.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::reasons;
use mcp_auth_oauth::{IssuedToday, PreflightProblem, ReportedClaims, UserTokenLimit};
use mcp_auth_protocol::sync::{ClientCertificate, Credential, DeclinedRefresh, EgressProxy, VerificationKey};

use crate::credential_identity::CredentialIdentity;
use crate::not_served::NotServedError;
use crate::token_seed::TokenSeed;
use crate::user_token_exchanger::UserTokenExchanger;

/// What a token source publishes, whole, whenever anything of it changes.
#[derive(Clone)]
pub struct CredentialState {
    pub credential_identity: CredentialIdentity,
    /// The `metadata.generation` of the resource that this was made of.
    pub generation: Option<i64>,
    pub credential: Credential,
    pub connection: ServerConnection,
    /// What users' tokens are verified by for the audit log.
    pub audit_keys: Arc<[VerificationKey]>,
    /// What was demanded of the token and is not to be had.
    pub declined: Option<DeclinedRefresh>,
    /// `None`: users get no tokens of their own.
    pub exchanger: Option<Arc<UserTokenExchanger>>,
    pub issuance: Issuance,
    /// With what another replica goes on with the token.
    pub seed: Option<TokenSeed>,
}

/// What a sidecar needs to reach the MCP server, to trust it, and to be trusted by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerConnection {
    /// PEM certificates to trust at the MCP server besides the platform's. All resources with the same have one text.
    pub ca_bundle: Option<Arc<str>>,
    /// Shown to the MCP server.
    pub client_certificate: Option<ClientCertificate>,
    /// On the way to the MCP server.
    pub egress_proxy: Option<EgressProxy>,
}

/// How far the issuance of the token is: all that the status says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Issuance {
    /// What keeps the source from being as the spec says. A token of before may still serve.
    pub problem: Option<NotServedError>,
    pub token: TokenSnapshot,
    /// Why the keys for the audit log could not be fetched the last time.
    pub audit_keys_problem: Option<String>,
}

/// What is known of the token, without the token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenSnapshot {
    pub in_use: Option<TokenInUse>,
    /// In the past: the request is under way.
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<LastError>,
    /// The authorization server, where it was discovered.
    pub server: Option<DiscoveredServer>,
    /// The issuer of the identity provider that grants users' exchanges, where it was discovered.
    pub identity_provider: Option<String>,
    /// Seconds that the authorization server's clock is ahead; 0 where that is little.
    pub clock_offset: i64,
    /// What the metadata of the authorization server say against the request, while there is no token.
    pub preflight: Vec<PreflightProblem>,
    /// Only users have tokens, and none is requested for the service: what was asked of the authorization server.
    pub users_only: Option<ServerLookUp>,
    /// What the namespace may keep of users' tokens, where some are not kept because of that.
    pub user_tokens_limited_to: Option<UserTokenLimit>,
    /// The MCP server rejects tokens that were just issued.
    pub rejected: bool,
    /// Scopes that the MCP server demands and the authorization server does not grant, and why not.
    pub scopes_refused: Option<String>,
    /// Scopes that the MCP server demands and that the resource does not allow to be requested.
    pub scopes_not_allowed: Option<String>,
    /// The circuit breaker is open: nothing is asked before the next attempt.
    pub circuit_open: bool,
    /// Of today.
    pub usage: Option<TokenUsage>,
    /// While there is none: the token that was issued before the resource was changed.
    pub superseded: Option<SupersededToken>,
}

impl TokenSnapshot {
    /// Whether it is yet to be known if there will be a token, or a server to have users' tokens of.
    pub fn is_pending(&self) -> bool {
        let has_come = match self.users_only {
            Some(look_up) => look_up != ServerLookUp::Pending,
            None => self.in_use.is_some(),
        };
        !has_come && self.last_error.is_none()
    }
}

/// How many tokens were issued, and how many may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenUsage {
    pub today: IssuedToday,
    /// Tokens a day, of the client.
    pub quota: Option<u64>,
    /// Where other resources of the namespace have the same client: what it is issued for all of them.
    pub client: Option<ClientUsage>,
    /// Tokens of other resources may be missing in that: of some it is yet to be learned which client they have, or what
    /// they will request.
    pub is_partial: bool,
    /// For as long as that is so after another process: what that said of the quota.
    pub said_before: Option<SaidOfQuota>,
}

/// What was said of a quota, as a condition has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SaidOfQuota {
    pub reason: &'static str,
    pub message: String,
}

/// How many tokens a client is issued today for all of its resources in a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientUsage {
    pub issued: u64,
    /// By the end of the day, if it goes on like this.
    pub forecast: u64,
    pub resources: usize,
    /// Name and forecast of those that take the most, the largest first: [`Self::MAX_NAMED`] at most.
    pub largest: Arc<[(String, u64)]>,
    /// What of it was issued for resources that have another client by now.
    pub issued_to_former: u64,
}

impl ClientUsage {
    /// How many resources are worth being named.
    pub const MAX_NAMED: usize = 10;
}

impl TokenUsage {
    /// What counts towards the quota: issued, and expected by the end of the day.
    pub fn of_client(&self) -> (u64, u64) {
        match &self.client {
            Some(client) => (client.issued, client.forecast),
            None => (self.today.issued, self.today.forecast),
        }
    }
}

/// A token of before a change of the resource, for the same URL: sidecars go on with it until there is a new one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupersededToken {
    pub expires_at: Option<Timestamp>,
}

/// How far it is known that there is an authorization server, where no token is requested of it. What failed is in
/// [`TokenSnapshot::last_error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerLookUp {
    Pending,
    /// Nothing is asked: the resource states the endpoints.
    Stated,
    /// Its metadata were read.
    Discovered,
    Failed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveredServer {
    pub issuer: String,
    pub token_endpoint: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenInUse {
    /// Unknown of a token that another program minted.
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// As in [`mcp_auth_crds::TokenStatus::type`].
    pub kind: Option<&'static str>,
    pub scope: Option<String>,
    pub by_alternate_secret: bool,
    /// What does not fit the resource, where that is only to be reported.
    pub mismatch: Option<String>,
    /// What a JWT says of itself; none: the token is opaque.
    pub claims: Option<Arc<ReportedClaims>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    pub at: Timestamp,
    /// The authorization server's code, or the kind of failure.
    pub reason: String,
    /// The condition's reason.
    pub condition: &'static str,
    pub message: String,
}

impl CredentialState {
    /// Of a resource whose token source has not published anything yet.
    pub fn pending(credential_identity: CredentialIdentity) -> Self {
        let message = "the operator has not yet obtained a token for this version of the resource";
        Self {
            credential_identity,
            generation: None,
            credential: Credential::Unavailable {
                reason: reasons::PENDING.into(),
                message: message.into(),
                keep: true,
            },
            connection: ServerConnection::default(),
            audit_keys: Arc::default(),
            declined: None,
            exchanger: None,
            issuance: Issuance::default(),
            seed: None,
        }
    }

    /// Whether sidecars are given the same.
    pub fn is_same_for_sidecars(&self, other: &Self) -> bool {
        self.credential_identity == other.credential_identity
            && self.credential == other.credential
            && self.connection == other.connection
            && self.audit_keys == other.audit_keys
            && self.declined == other.declined
    }

    /// Whether the other replicas are given the same.
    pub fn is_same_for_replicas(&self, other: &Self) -> bool {
        self.is_same_for_sidecars(other) && self.seed == other.seed
    }

    /// Whether the status is the same.
    pub fn is_same_for_status(&self, other: &Self) -> bool {
        (self.generation, &self.issuance) == (other.generation, &other.issuance)
    }
}
