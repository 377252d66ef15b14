//! Tokens for users by token exchange: what is exchanged, and how.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KeyRef, PrivateKeyJwt};

/// Token exchange (RFC 8693) for each user.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.profile == 'RFC8693' || !has(self.requestedTokenType)",
        "requestedTokenType belongs to the profile RFC8693"
    ),
    validation = (
        "(self.profile == 'IdJag') == has(self.identityProvider)",
        "identityProvider belongs to the profile IdJag, which needs it: the grant comes from there"
    ),
    validation = (
        "!has(self.extraParameters) || self.extraParameters.all(k, !(k in ['grant_type', 'scope', \
         'audience', 'resource', 'client_id', 'client_secret', 'client_assertion', \
         'client_assertion_type', 'assertion', 'subject_token', 'subject_token_type', 'actor_token', \
         'actor_token_type', 'requested_token_type']))",
        "extraParameters must not hold grant_type, scope, audience, resource, assertion, a client_*, \
         subject_* or actor_* parameter or requested_token_type: they have fields of their own"
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
         'api-key', 'connection', 'cookie', 'cookie2', 'dpop', 'expect', 'forwarded', \
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
    /// How the user's token is exchanged: as RFC 8693 has it, by the on-behalf-of flow of Microsoft Entra, or by an identity
    /// assertion authorization grant of an identity provider. Default: `RFC8693`.
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

    /// Header of the user's request whose value is the subject token. Of `Authorization` it is what stands behind `Bearer`;
    /// LiteLLM's own keys (`sk-...`) are never taken for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
    )]
    pub subject_header: Option<String>,

    /// Type of the subject token (RFC 8693 section 3). Default: an access token, with the profile `IdJag` an ID token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub subject_token_type: Option<String>,

    /// Type of token to request. Default: left to the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub requested_token_type: Option<String>,

    /// Scopes of users' tokens. Default: `oauth2.scopes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$"))
    )]
    pub scopes: Vec<String>,

    /// The `audience` parameter of the exchange. Default: `oauth2.audience`; with the profile `IdJag` the issuer of the
    /// authorization server, which the grant is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,

    /// Further parameters of the exchange instead of `oauth2.extraParameters`; with the profile `IdJag` of the request to the
    /// identity provider.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub extra_parameters: BTreeMap<String, String>,

    /// Where users' tokens are exchanged for grants, with the profile `IdJag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<IdentityProvider>,
}

/// The identity provider that users sign in at, and that the authorization server of `oauth2` trusts: it issues identity
/// assertion authorization grants (draft-ietf-oauth-identity-assertion-authz-grant).
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.issuer) != has(self.tokenUrl)",
        "exactly one of issuer and tokenUrl must be set"
    ),
    validation = (
        "(!has(self.issuer) || (self.issuer.matches('^https?://') && isURL(self.issuer) && \
         url(self.issuer).getHost() != '' && !self.issuer.contains('#') && \
         !self.issuer.matches('^[a-z]+://[^/?]*@'))) && \
         (!has(self.tokenUrl) || (self.tokenUrl.matches('^https?://') && isURL(self.tokenUrl) && \
         url(self.tokenUrl).getHost() != '' && !self.tokenUrl.contains('#') && \
         !self.tokenUrl.matches('^[a-z]+://[^/?]*@')))",
        "issuer and tokenUrl must be absolute http or https URLs without fragment, user name and password"
    )
)]
pub struct IdentityProvider {
    /// Issuer identifier; the token endpoint is discovered from its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,

    /// URL of the token endpoint, instead of `issuer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub token_url: Option<String>,

    /// The client identifier there. Default: that of `oauth2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: Option<String>,

    /// How the client authenticates there. Default: as by `oauth2.clientAuthentication`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authentication: Option<IdentityProviderAuthentication>,
}

/// How the client authenticates at the identity provider.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(self.method in ['ClientSecretBasic', 'ClientSecretPost']) == has(self.clientSecretRef)",
        "clientSecretRef belongs to the methods ClientSecretBasic and ClientSecretPost, which need it"
    ),
    validation = (
        "(self.method == 'PrivateKeyJwt') == has(self.privateKeyJwt)",
        "privateKeyJwt belongs to the method PrivateKeyJwt, which needs it"
    ),
    validation = (
        "!has(self.privateKeyJwt) || !has(self.privateKeyJwt.managed)",
        "a managed key is that of oauth2.clientAuthentication: leave clientAuthentication of identityProvider out"
    )
)]
pub struct IdentityProviderAuthentication {
    pub method: IdentityProviderMethod,

    /// The client secret, for ClientSecretBasic and ClientSecretPost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<KeyRef>,

    /// The signing key, for PrivateKeyJwt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_jwt: Option<PrivateKeyJwt>,
}

/// Client authentication method at the identity provider, as in `oauth2.clientAuthentication.method`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum IdentityProviderMethod {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
}

/// How a user's token is exchanged: RFC 8693 (`RFC8693`), the on-behalf-of flow of Microsoft Entra (`EntraOBO`), or an
/// identity assertion authorization grant (`IdJag`): RFC 8693 at `identityProvider`, and then RFC 7523 at the authorization
/// server, as MCP's enterprise-managed authorization has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ExchangeProfile {
    #[default]
    #[serde(rename = "RFC8693")]
    Rfc8693,
    #[serde(rename = "EntraOBO")]
    EntraObo,
    IdJag,
}
