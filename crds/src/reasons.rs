//! Reasons of the conditions: a closed set, the same words as in metrics and events.

pub const READY: &str = "Ready";
pub const RESOLVED: &str = "Resolved";
pub const ISSUED: &str = "Issued";
pub const SYNCED: &str = "Synced";

/// An older resource of the namespace has the same server name for the same pods.
pub const CONFLICT: &str = "Conflict";
/// A field's value cannot be used.
pub const INVALID_SPEC: &str = "InvalidSpec";

pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
pub const SECRET_KEY_NOT_FOUND: &str = "SecretKeyNotFound";
pub const SECRET_INVALID: &str = "SecretInvalid";
pub const CONFIG_MAP_NOT_FOUND: &str = "ConfigMapNotFound";
pub const CONFIG_MAP_KEY_NOT_FOUND: &str = "ConfigMapKeyNotFound";
pub const CONFIG_MAP_INVALID: &str = "ConfigMapInvalid";
/// The operator may not read the Secret or ConfigMap.
pub const FORBIDDEN: &str = "Forbidden";

/// An administrator's rule (chart values `policy.*`) forbids what the resource asks for.
pub const NOT_ALLOWED: &str = "NotAllowed";

/// Beyond what the administrator grants a namespace or a resource (chart values `limits.*`): what works goes on.
pub const LIMIT_EXCEEDED: &str = "LimitExceeded";

/// The first token is on its way.
pub const PENDING: &str = "Pending";
/// The last token request failed; the token in use still serves.
pub const RENEWAL_FAILED: &str = "RenewalFailed";
/// The last token request failed, and there is no valid token.
pub const REQUEST_FAILED: &str = "RequestFailed";

/// Only users have tokens, and none is requested for the service.
pub const USER_TOKENS_ONLY: &str = "UserTokensOnly";

/// The token in the Secret of `bearerToken` has expired.
pub const EXPIRED: &str = "Expired";
/// The token was issued with the alternate client secret: the first one is refused.
pub const ALTERNATE_SECRET_IN_USE: &str = "AlternateSecretInUse";
/// The authorization server could not be discovered.
pub const DISCOVERY_FAILED: &str = "DiscoveryFailed";
/// The MCP server names another authorization server than before: credentials of the one are not shown to the
/// other.
pub const ISSUER_CHANGED: &str = "IssuerChanged";
/// The token issued does not fit the resource: the message says what was expected and what was found.
pub const TOKEN_MISMATCH: &str = "TokenMismatch";
/// The MCP server refuses tokens that were just issued.
pub const TOKEN_REFUSED: &str = "TokenRefused";
/// More tokens were issued today than the resource states as its quota.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
/// More tokens are to be expected today than the resource states as its quota.
pub const QUOTA_FORECAST: &str = "QuotaForecast";
/// The operator's clock differs from the authorization server's.
pub const CLOCK_SKEW: &str = "ClockSkew";
/// The MCP server demands scopes that the authorization server does not grant, or the resource does not allow.
pub const INSUFFICIENT_SCOPE: &str = "InsufficientScope";

/// The keys that users' tokens are verified by for the audit log cannot be fetched.
pub const AUDIT_KEYS_UNAVAILABLE: &str = "AuditKeysUnavailable";

/// What the spec refers to, such as a client certificate, ends soon.
pub const EXPIRES_WITHIN_30_DAYS: &str = "ExpiresWithin30Days";
pub const EXPIRES_WITHIN_14_DAYS: &str = "ExpiresWithin14Days";
pub const EXPIRES_WITHIN_3_DAYS: &str = "ExpiresWithin3Days";
/// It has ended.
pub const CREDENTIAL_EXPIRED: &str = "CredentialExpired";
/// A Secret states an end that is no time.
pub const EXPIRY_INVALID: &str = "ExpiryInvalid";

/// `podSelector` matches no pod of the namespace.
pub const NO_PODS_SELECTED: &str = "NoPodsSelected";
/// `podSelector` matches pods, and all of them are such as need no sidecar.
pub const PODS_SKIPPED: &str = "PodsSkipped";
/// The webhook refuses pods that ask for the sidecar by their own label and cannot be injected.
pub const PODS_REFUSED: &str = "PodsRefused";
/// The API server has not called the webhook although selected pods were created.
pub const WEBHOOK_NOT_REACHED: &str = "WebhookNotReached";
/// Selected pods run without the sidecar.
pub const PODS_NOT_INJECTED: &str = "PodsNotInjected";
/// Sidecars are not connected, or have not yet taken over the newest state.
pub const SIDECARS_BEHIND: &str = "SidecarsBehind";
/// LiteLLM does not know the server before its pods are restarted.
pub const RESTART_NEEDED: &str = "RestartNeeded";
/// LiteLLM's own configuration has the server too, and says something else of it than the resource.
pub const LITELLM_CONFIGURATION_DIFFERS: &str = "LiteLLMConfigurationDiffers";
/// A sidecar reports a problem of its own.
pub const SIDECAR_PROBLEM: &str = "SidecarProblem";

/// A sidecar works, and reports something that should be looked at.
pub const SIDECAR_NOTICE: &str = "SidecarNotice";

/// No operator serves the resource's namespace any more.
pub const NOT_WATCHED: &str = "NotWatched";

/// Reasons of a condition that is true and all the same needs attention.
pub const WARNINGS: [&str; 18] = [
    LIMIT_EXCEEDED,
    RENEWAL_FAILED,
    ALTERNATE_SECRET_IN_USE,
    DISCOVERY_FAILED,
    ISSUER_CHANGED,
    TOKEN_MISMATCH,
    CLOCK_SKEW,
    QUOTA_EXCEEDED,
    QUOTA_FORECAST,
    INSUFFICIENT_SCOPE,
    SIDECAR_NOTICE,
    LITELLM_CONFIGURATION_DIFFERS,
    AUDIT_KEYS_UNAVAILABLE,
    EXPIRES_WITHIN_30_DAYS,
    EXPIRES_WITHIN_14_DAYS,
    EXPIRES_WITHIN_3_DAYS,
    CREDENTIAL_EXPIRED,
    EXPIRY_INVALID,
];
