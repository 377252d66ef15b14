//! Routes: what is known of an MCP server without any secret.

use serde::{Deserialize, Serialize};

use super::litellm::LiteLlmSettings;

/// What is known of an MCP server without any secret. Also travels in the pod, from admission on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name of the `McpServerAuth` in the pod's namespace, for messages.
    pub resource: String,
    /// LiteLLM's key in `mcp_servers`; first path segment on the outbound listener.
    pub server: String,
    /// Absolute `http` or `https` URL of the MCP server, without fragment and user info.
    pub url: String,
    pub transport: Transport,
    /// HTTP/2 is not to be offered to the server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http1_only: bool,
    /// Longest wait in seconds for the headers of an answer, and for more of one that is no event stream; the sidecar's
    /// own where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_timeout_seconds: Option<u32>,
    /// PEM certificates to trust besides the platform's. Absent at admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Cookie names, compared byte for byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
    /// Cookies of a load balancer before the server, beside those that a sidecar knows; compared byte for byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity_cookies: Vec<String>,
    /// Header names in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    #[serde(default)]
    pub user_context: UserContext,
    /// Where the subject token of the user is found, if tool calls carry a token of the user's own (RFC
    /// 8693).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<SubjectTokenSource>,
    /// Opaque; changes with what users' tokens are minted for, such as scopes and audience. A token that was
    /// got for another value is of no use any more. Empty where there is no exchange.
    #[serde(default, rename = "mintedFor", skip_serializing_if = "String::is_empty")]
    pub credential_identity: String,
    /// What is recorded of each call; nothing where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// What the server is registered in LiteLLM with, where LiteLLM's own configuration does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub litellm: Option<LiteLlmSettings>,
}

/// What the sidecar writes of each call into its audit log.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Whether the names of a tool's arguments are written, never their values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argument_names: bool,
    /// Where the user's name is found; else a fingerprint stands for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<AuditUser>,
}

/// The part of the user context that names the user in the audit log. It goes to the MCP server only if it is
/// among [`Route::cookies`] or [`Route::headers`] too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditUser {
    pub from: SubjectTokenSource,
    /// The value is a JWT, whose claim of this name is the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Whose signature the JWT must have; without it the claim is taken without a look at the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<JwtVerification>,
}

/// How the JWT of a user is verified (RFC 7519 section 7.2).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtVerification {
    /// Must be `iss`.
    pub issuer: String,
    /// Must be in `aud`, if it is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Absent at admission, and as long as the operator has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<VerificationKey>,
}

/// A public key (JWK, RFC 7517), with the members that verifying needs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VerificationKey {
    pub kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

/// The part of the user context that is exchanged for a token of the user's own. It goes to the operator, and
/// to the MCP server only if it is among [`Route::cookies`] or [`Route::headers`] too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectTokenSource {
    /// Name of a cookie, compared byte for byte.
    Cookie(String),
    /// Name of a header in lower case.
    Header(String),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Transport {
    StreamableHttp,
    Sse,
}

/// Whether a `tools/call` without any user context is forwarded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum UserContext {
    #[default]
    Optional,
    Required,
}
