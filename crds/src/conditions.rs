//! Types of the conditions.

/// Everything below holds: LiteLLM reaches the server with a valid token.
pub const READY: &str = "Ready";
/// Every referenced Secret and ConfigMap is there, with the keys named and usable content.
pub const SECRETS_RESOLVED: &str = "SecretsResolved";
/// There is a token, valid now, and the last request for one succeeded.
pub const TOKEN_ISSUED: &str = "TokenIssued";
/// Every selected pod has a sidecar that uses the newest routes and tokens.
pub const SIDECARS_SYNCED: &str = "SidecarsSynced";
/// Something that the spec refers to ends soon. It is there only where there is something to say.
pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
/// The sidecars reach the MCP server. Its reasons are what they report: the states of the sync protocol.
pub const SERVER_REACHABLE: &str = "ServerReachable";
