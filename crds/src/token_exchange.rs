//! Tokens for users by token exchange: what is exchanged, and how.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Token exchange (RFC 8693) for each user.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.profile != 'EntraOBO' || !has(self.requestedTokenType)",
        "requestedTokenType belongs to the profile RFC8693"
    ),
    validation = (
        "has(self.subjectCookie) != has(self.subjectHeader)",
        "exactly one of subjectCookie and subjectHeader must be set"
    ),
    validation = (
        "!has(self.subjectCookie) || self.subjectCookie != 'token'",
        "the cookie `token` is LiteLLM's own UI session and is never used"
    ),
    validation = (
        "!has(self.subjectHeader) || !(self.subjectHeader.lowerAscii() in ['accept', 'accept-encoding', \
         'api-key', 'authorization', 'connection', 'cookie', 'cookie2', 'dpop', 'expect', 'forwarded', \
         'host', 'http2-settings', 'keep-alive', 'last-event-id', 'ocp-apim-subscription-key', 'origin', \
         'set-cookie', 'set-cookie2', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'via', \
         'www-authenticate', 'x-api-key', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-port', \
         'x-forwarded-prefix', 'x-forwarded-proto', 'x-forwarded-scheme', 'x-forwarded-server', \
         'x-forwarded-ssl', 'x-goog-api-key', 'x-litellm-api-key', 'x-mcp-auth', \
         'x-original-forwarded-for', 'x-original-host', 'x-real-ip'] || \
         self.subjectHeader.lowerAscii().matches('^(content-|mcp-|mcpauth-|proxy-|sec-websocket-)'))",
        "subjectHeader must not be a header that carries LiteLLM's own credentials or belongs to the \
         connection, to the MCP transport or to mcp-auth"
    )
)]
pub struct TokenExchange {
    /// How the user's token is exchanged: as RFC 8693 has it, or by the on-behalf-of flow of Microsoft Entra.
    /// Default: `RFC8693`.
    #[serde(default)]
    pub profile: ExchangeProfile,

    /// Cookie of the user's request whose value is the subject token. It goes to the authorization server,
    /// and to the MCP server only if `cookiePassthrough` names it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
    )]
    pub subject_cookie: Option<String>,

    /// Header of the user's request whose value is the subject token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
    )]
    pub subject_header: Option<String>,

    /// Type of the subject token (RFC 8693 section 3). Default: an access token.
    #[serde(default = "access_token_type")]
    #[schemars(length(min = 1, max = 256))]
    pub subject_token_type: String,

    /// Type of token to request. Default: left to the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub requested_token_type: Option<String>,
}

/// How a user's token is exchanged: RFC 8693, or the on-behalf-of flow of Microsoft Entra.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ExchangeProfile {
    #[default]
    #[serde(rename = "RFC8693")]
    Rfc8693,
    #[serde(rename = "EntraOBO")]
    EntraObo,
}

/// RFC 8693 section 3.
fn access_token_type() -> String {
    "urn:ietf:params:oauth:token-type:access_token".to_owned()
}
