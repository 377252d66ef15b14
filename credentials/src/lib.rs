//! From an `McpServerAuth` and the values that it refers to, to the credential of its MCP server, without a
//! cluster: the operator uses it for the sidecars of its pods, and `mcp-auth exec` for the one LiteLLM of a
//! machine.
//!
//! [`desired`](fn@desired) turns a spec and what its [`references`] lead to into the token source that it
//! desires, [`TokenSources`] keep one for each resource and publish its whole state into [`Credentials`],
//! and [`routes`] say what a sidecar has to know of the server besides. [`conditions`] tell of a state in
//! the words of the resource's status.

mod administrator_policy;
mod audit_keys;
mod bearer;
mod changes;
pub mod conditions;
pub mod credential_expiry;
mod credential_identity;
mod desired;
mod effective;
mod managed_key;
mod not_served;
pub mod references;
mod replicated_credential;
mod replicated_user_tokens;
mod resource_ref;
pub mod routes;
mod shared_bundle;
mod store;
mod token_details;
mod token_refresh_requests;
mod token_seed;
mod token_sources;
mod user_token_exchanger;

pub use administrator_policy::AdministratorPolicy;
pub use bearer::bearer;
pub use changes::Changes;
pub use credential_identity::{CredentialIdentity, RequestDigest};
pub use desired::{Inputs, desired};
pub use effective::EffectiveSettings;
pub use managed_key::ManagedKey;
pub use not_served::{NotServedError, NotServedReason};
pub use replicated_credential::ReplicatedCredential;
pub use replicated_user_tokens::{ReplicatedUserToken, ReplicatedUserTokens, UserTokenScope};
pub use resource_ref::ResourceRef;
pub use store::{
    ClientUsage, CredentialState, Credentials, DiscoveredServer, Issuance, LastError, ServerConnection,
    TokenInUse, TokenSnapshot, TokenUsage,
};
pub use token_details::ReplicatedCredentialError;
pub use token_refresh_requests::{TokenRefreshQueue, TokenRefreshRequest, TokenRefreshRequests};
pub use token_seed::TokenSeed;
pub use token_sources::{
    ClientConfiguration, Desired, DesiredSource, TokenMetrics, TokenSources, known_server,
};
pub use user_token_exchanger::{ExchangeError, UserTokenExchanger};
