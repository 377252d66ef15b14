//! The audit log: what a sidecar writes of each call.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is written of each call, and who counts as its user.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How much is written. Default: `Metadata`.
    #[serde(default)]
    pub level: AuditLevel,

    /// Where the name of the user is found. Without it a keyed fingerprint of the cookies and headers that the
    /// MCP server gets stands for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<AuditUser>,
}

/// How much is written of a call: nothing (`Off`); who called which method and tool, and what came of it
/// (`Metadata`); that, and the names of the tool's arguments, never their values (`ArgumentNames`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AuditLevel {
    Off,
    #[default]
    Metadata,
    ArgumentNames,
}

/// The cookie or header of the user's request that says who the user is. It goes to the MCP server only if
/// `cookiePassthrough` or `headerPassthrough` names it too.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.cookie) != has(self.header)",
        "exactly one of cookie and header must be set"
    ),
    validation = (
        "!has(self.jwks) || has(self.claim)",
        "jwks needs claim: the claim of the verified token that names the user"
    ),
    validation = (
        "!has(self.cookie) || self.cookie != 'token'",
        "the cookie `token` is LiteLLM's own UI session and is never used"
    ),
    validation = (
        "!has(self.header) || !(self.header.lowerAscii() in ['accept', 'accept-encoding', 'api-key', \
         'authorization', 'connection', 'cookie', 'cookie2', 'dpop', 'expect', 'forwarded', 'host', \
         'http2-settings', 'keep-alive', 'last-event-id', 'ocp-apim-subscription-key', 'origin', \
         'set-cookie', 'set-cookie2', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'via', \
         'www-authenticate', 'x-api-key', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-port', \
         'x-forwarded-prefix', 'x-forwarded-proto', 'x-forwarded-scheme', 'x-forwarded-server', \
         'x-forwarded-ssl', 'x-goog-api-key', 'x-litellm-api-key', 'x-mcp-auth', \
         'x-original-forwarded-for', 'x-original-host', 'x-real-ip'] || \
         self.header.lowerAscii().matches('^(content-|mcp-|mcpauth-|proxy-|sec-websocket-)'))",
        "header must not be a header that carries LiteLLM's own credentials or belongs to the connection, to \
         the MCP transport or to mcp-auth"
    )
)]
pub struct AuditUser {
    /// Header whose value is the user's name, such as X-Forwarded-User: set by a front end that removes it from
    /// what clients send. With `claim`, its value is a JSON Web Token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
    )]
    pub header: Option<String>,

    /// Cookie that says who the user is. Its value is a session and never written: without `claim` its keyed
    /// fingerprint is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
    )]
    pub cookie: Option<String>,

    /// The cookie or header is a JSON Web Token, and this claim of it names the user, such as `sub` or `email`.
    /// Without `jwks` the signature is not verified, and lines say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub claim: Option<String>,

    /// Whose signature the JSON Web Token must have. A token that is forged, expired or of another issuer or
    /// audience names nobody then; lines say what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<AuditJwks>,
}

/// The issuer of users' tokens, and where its public keys are. The operator fetches them every 5 minutes, trusting
/// the authorities of `oauth2.caBundle` and through the egress proxy as it does for tokens.
#[derive(KubeSchema, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[self.issuer, has(self.url) ? self.url : self.issuer].all(u, u.matches('^https?://[^/?#@]+') && isURL(u) && \
         !u.contains('#'))",
        "issuer and url must be absolute http or https URLs without user, password and fragment"
    ),
    validation = (
        "self.allowInsecureHttp || [self.issuer, has(self.url) ? self.url : self.issuer].all(u, u.startsWith('https://'))",
        "issuer or url is plain http: an attacker on the network path could replace the keys. Use https, or set \
         allowInsecureHttp: true"
    )
)]
pub struct AuditJwks {
    /// Must be the token's `iss`.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,

    /// Where the key set is (`jwks_uri`). Default: where the issuer's metadata say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,

    /// Must be in the token's `aud`. Without it tokens that the issuer made for any other client count too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub audience: Option<String>,

    /// Allows http URLs. For tests.
    #[serde(default)]
    pub allow_insecure_http: bool,
}
