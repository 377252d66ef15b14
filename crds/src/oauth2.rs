//! An OAuth2 authorization server: where it is, what is requested from it, and what becomes of the token.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CaBundle, ClientAuthentication, JwtBearer, KeyRef, TokenExchange};
/// An OAuth2 authorization server and this client's registration there. The grant is client_credentials (RFC
/// 6749 section 4.4) unless `jwtBearer` or `clientAuthentication.workloadIdentity` say otherwise;
/// `tokenExchange` adds a token for each user.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!(has(self.tokenUrl) && has(self.issuer))",
        "tokenUrl and issuer exclude each other; with neither of them the authorization server is \
         discovered from the MCP server"
    ),
    validation = (
        "!has(self.tokenUrl) || (self.tokenUrl.matches('^https?://') && isURL(self.tokenUrl) && \
         url(self.tokenUrl).getHost() != '' && !self.tokenUrl.contains('#'))",
        "tokenUrl must be an absolute http or https URL without fragment, such as \
         https://auth.example.com/oauth2/token"
    ),
    validation = (
        "!has(self.tokenUrl) || !self.tokenUrl.startsWith('http://') || self.allowInsecureHttp",
        "tokenUrl is plain http: the client secret and the token would be readable on the way (RFC 6749 \
         section 3.2 demands TLS). Use https, or set oauth2.allowInsecureHttp: true"
    ),
    validation = (
        "!has(self.issuer) || self.issuer.startsWith('https://') || (self.allowInsecureHttp && \
         self.issuer.startsWith('http://'))",
        "issuer must be an https URL, or an http one with oauth2.allowInsecureHttp: true"
    ),
    validation = (
        "!(has(self.clientId) && has(self.clientIdSecretRef))",
        "clientId and clientIdSecretRef exclude each other"
    ),
    validation = (
        "has(self.clientId) || has(self.clientIdSecretRef) || self.clientAuthentication.method in \
         ['WorkloadIdentity', 'ClientAssertion'] || (self.clientAuthentication.method == 'None' && has(self.jwtBearer)) || \
         (has(self.clientAuthentication.privateKeyJwt) && has(self.clientAuthentication.privateKeyJwt.managed))",
        "one of clientId and clientIdSecretRef must be set"
    ),
    validation = (
        "self.clientAuthentication.method != 'None' || has(self.jwtBearer)",
        "clientAuthentication.method None needs jwtBearer: nothing else would say who asks"
    ),
    validation = (
        "!has(self.jwtBearer) || !has(self.clientAuthentication.workloadIdentity) || \
         self.clientAuthentication.workloadIdentity.assertion == 'ClientAssertion'",
        "jwtBearer and clientAuthentication.workloadIdentity.assertion JwtBearer or TokenExchange are two grants for one \
         token: leave one out"
    ),
    validation = (
        "!has(self.revocationUrl) || (has(self.tokenUrl) && self.revocationUrl.matches('^https?://') && \
         isURL(self.revocationUrl))",
        "revocationUrl must be an absolute URL and belongs to tokenUrl; otherwise it is discovered"
    ),
    validation = (
        "!self.revokeOnDeletion || !has(self.tokenUrl) || has(self.revocationUrl)",
        "revokeOnDeletion needs to know where: set revocationUrl beside tokenUrl, or issuer instead of \
         tokenUrl"
    ),
    validation = (
        "!has(self.tokenUrl) || !self.tokenUrl.matches('^[a-z]+://[^/?]*@')",
        "tokenUrl must hold no user name or password"
    ),
    validation = (
        "!has(self.issuer) || (isURL(self.issuer) && url(self.issuer).getHost() != '' && \
         !self.issuer.contains('?') && !self.issuer.contains('#') && \
         !self.issuer.matches('^[a-z]+://[^/?]*@'))",
        "issuer must be a URL with a host, without query, fragment, user name and password (RFC 8414 \
         section 2)"
    ),
    validation = (
        "self.stepUp || !has(self.stepUpAllowedScopes) || size(self.stepUpAllowedScopes) == 0",
        "stepUpAllowedScopes has no effect while stepUp is false: leave one of the two out"
    ),
    validation = (
        "!has(self.revocationUrl) || !self.revocationUrl.startsWith('http://') || self.allowInsecureHttp",
        "revocationUrl is plain http. Use https, or set oauth2.allowInsecureHttp: true"
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
        "!has(self.extraParametersFrom) || self.extraParametersFrom.all(p, !(p.name in ['grant_type', 'scope', \
         'audience', 'resource', 'client_id', 'client_secret', 'client_assertion', \
         'client_assertion_type', 'assertion', 'subject_token', 'subject_token_type', 'actor_token', \
         'actor_token_type', 'requested_token_type']) && !(has(self.extraParameters) && p.name in \
         self.extraParameters))",
        "extraParametersFrom must not name a parameter that has a field of its own or is in extraParameters"
    ),
    validation = (
        "!has(self.provider) || self.provider != 'Entra' || has(self.audience) || (has(self.scopes) && \
         size(self.scopes) > 0)",
        "provider Entra needs audience, the identifier of the MCP server's application such as api://ID, or its \
         scopes, such as api://ID/.default"
    ),
    validation = (
        "!has(self.tokenUrl) || !has(self.tokenExchange) || self.tokenExchange.profile != 'IdJag' || \
         has(self.tokenExchange.audience)",
        "tokenExchange.profile IdJag needs tokenExchange.audience beside tokenUrl: the issuer of the authorization server, \
         which the grant is for"
    ),
    validation = (
        "!has(self.tokenExchange) || !has(self.tokenExchange.identityProvider) || self.allowInsecureHttp || \
         ((!has(self.tokenExchange.identityProvider.issuer) || \
         self.tokenExchange.identityProvider.issuer.startsWith('https://')) && \
         (!has(self.tokenExchange.identityProvider.tokenUrl) || \
         self.tokenExchange.identityProvider.tokenUrl.startsWith('https://')))",
        "tokenExchange.identityProvider is plain http: the client secret and users' tokens would be readable on the way. Use \
         https, or set oauth2.allowInsecureHttp: true"
    ),
    validation = (
        "self.serviceToken != 'None' || has(self.tokenExchange)",
        "serviceToken None needs tokenExchange: without either there is no token at all"
    ),
    validation = (
        "self.serviceToken != 'None' || !(has(self.jwtBearer) || self.revokeOnDeletion || \
         (has(self.stepUpAllowedScopes) && size(self.stepUpAllowedScopes) > 0))",
        "jwtBearer, stepUpAllowedScopes and revokeOnDeletion are of the service's token and have no effect while \
         serviceToken is None: leave them or serviceToken out"
    ),
    validation = (
        "!has(self.provider) || self.provider != 'Okta' || (has(self.scopes) && size(self.scopes) > 0)",
        "provider Okta needs scopes: it has no default for machines"
    ),
    validation = (
        "!has(self.provider) || self.provider != 'Google' || (has(self.scopes) && size(self.scopes) > 0) || \
         (has(self.jwtBearer) && has(self.jwtBearer.claims) && 'scope' in self.jwtBearer.claims)",
        "provider Google needs scopes, such as https://www.googleapis.com/auth/cloud-platform"
    )
)]
pub struct OAuth2 {
    /// The identity provider, whose peculiarities become defaults: whether `resource` is sent, `audience`, `scopes`, the
    /// audience of signed assertions, accepted audiences and issuers, and the assumed lifetime. Each of these fields goes
    /// before it where it is set, and `status.effective` shows what counts. Default: none, and the standards' defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Provider")]
    pub provider: Option<Provider>,

    /// URL of the token endpoint. Either this or `issuer`, or neither: then the authorization server is
    /// discovered from the MCP server's own metadata (RFC 9728).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub token_url: Option<String>,

    /// Issuer identifier; the token endpoint is discovered from its metadata (RFC 8414, OpenID Connect
    /// Discovery), which must name the same issuer. Either this or `tokenUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,

    /// The client identifier. Default, with `clientAuthentication.privateKeyJwt.managed`: the URL of the client ID
    /// metadata document that the operator publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: Option<String>,

    /// The client identifier, where it is kept beside the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_secret_ref: Option<KeyRef>,

    /// How the client authenticates at the token endpoint.
    pub client_authentication: ClientAuthentication,

    /// Requests tokens with the grant jwt-bearer (RFC 7523 section 2.1) instead of client_credentials, by an
    /// assertion that something else keeps in a Secret, or that the operator signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_bearer: Option<JwtBearer>,

    /// A token of their own for each user, by token exchange (RFC 8693). Requests then carry the user's
    /// token and never the service's; discovery, which LiteLLM also does for no user, carries the service's where
    /// there is no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<TokenExchange>,

    /// Whether the service has a token of its own. `None` where the authorization server has tokens for users only, by
    /// `tokenExchange`: requests for no user, such as LiteLLM's discovery at its start, are then answered with an error.
    #[serde(default)]
    pub service_token: ServiceToken,

    /// `DPoP` binds the token to a key (RFC 9449): a stolen token alone is of no use.
    #[serde(default)]
    pub token_type: TokenType,

    /// Scopes to request. None: those that the MCP server's challenge or metadata name, where the authorization
    /// server is discovered from them, but for `openid` and `offline_access`, which only users can grant; else
    /// the authorization server's default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$"))
    )]
    pub scopes: Vec<String>,

    /// The `audience` parameter, for authorization servers that want it beside or instead of `resource`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,

    /// The `resource` parameter (RFC 8707). Default: the server's URL, as MCP demands, and not sent where `provider` does
    /// not know it. Empty: not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub resource: Option<String>,

    /// Further parameters of the token request, but for those that have fields of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub extra_parameters: BTreeMap<String, String>,

    /// Further parameters of the token request whose values are kept in Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub extra_parameters_from: Vec<ExtraParameter>,

    /// Longest time that one request to the authorization server may take. Default: `10s`; up to `60s`.
    #[serde(default = "default_request_timeout")]
    #[schemars(regex(pattern = r"^([1-9]|[1-5][0-9]|60)s$"))]
    pub request_timeout: String,

    /// How long before its end a token is renewed. Default: `33%`. A duration (`90s`, `5m`, `1h30m`) or a
    /// share of its life (`33%`).
    #[serde(default = "default_refresh_before")]
    #[schemars(
        length(min = 2, max = 16),
        regex(pattern = r"^(([0-9]+h)?([0-9]+m)?([0-9]+s)?|[1-9][0-9]?%)$")
    )]
    pub refresh_before: String,

    /// How long a token is assumed to live that the authorization server states no life of, such as the opaque
    /// ones of Salesforce: it is renewed by that (`refreshBefore`), and serves until its successor is there.
    /// Default: `5m`, with `provider: Salesforce` `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 2, max = 16),
        regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$")
    )]
    pub assumed_lifetime: Option<String>,

    /// What `expires_in: 0` says: that the token is over already (`Expired`), as RFC 6749 has it, or that it has
    /// no end (`Unlimited`), as some servers write that. Default: `Expired`.
    #[serde(default)]
    pub zero_expires_in: ZeroExpiresIn,

    /// How many tokens the authorization server issues to this client, where that is limited or paid for: for all resources of
    /// the namespace that have it. Nothing is refused because of it: the status, a metric and an alert say when more are to be
    /// expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<TokenQuota>,

    /// Whether a token with fewer scopes than the MCP server demands (403, `insufficient_scope`) is requested
    /// once more with those scopes added, as far as `stepUpAllowedScopes` lists them. Default: true.
    #[serde(default = "yes")]
    pub step_up: bool,

    /// Scopes that may be requested because the MCP server demands them. None: none are, whatever it demands.
    /// Every sidecar then has the token with them, so list only what every LiteLLM that is selected may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$"))
    )]
    pub step_up_allowed_scopes: Vec<String>,

    /// What an access token that is a JWT is compared with before it is handed out.
    #[serde(default)]
    pub token_check: TokenCheck,

    /// Whether the token is revoked (RFC 7009) when this resource is deleted. Default: false.
    #[serde(default)]
    pub revoke_on_deletion: bool,

    /// URL of the revocation endpoint, where `tokenUrl` is set; otherwise it is discovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub revocation_url: Option<String>,

    /// PEM certificates of authorities to trust at the token endpoint besides the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,

    /// Allows `http` endpoints of the authorization server. For tests.
    #[serde(default)]
    pub allow_insecure_http: bool,

    /// Allows endpoints that were discovered to be at private addresses, such as Services of this cluster.
    /// Those that this resource states itself may be, and link-local ones never are.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// How many tokens there may be.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenQuota {
    /// From midnight to midnight (UTC), users' own tokens included.
    #[schemars(range(min = 1))]
    pub tokens_per_day: i32,
}

/// An identity provider with peculiarities of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Provider {
    Entra,
    Okta,
    Auth0,
    Keycloak,
    Google,
    Cognito,
    Salesforce,
    ServiceNow,
    PingFederate,
    Ory,
    Zitadel,
}

/// A parameter whose value is kept in a Secret.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtraParameter {
    /// Its name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its value.
    pub secret_key_ref: KeyRef,
}

/// Whether the service has a token of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceToken {
    /// It is requested, renewed and handed out.
    #[default]
    Requested,
    /// There is none.
    None,
}

/// How the token is presented: as a bearer token (`Bearer`, RFC 6750), or bound to a key (`DPoP`, RFC 9449).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TokenType {
    #[default]
    Bearer,
    DPoP,
}

/// The comparison of a JWT access token with this resource. Opaque tokens are taken as they are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenCheck {
    /// What becomes of a token that does not fit.
    #[serde(default)]
    pub mode: TokenCheckMode,

    /// Values of `aud` that fit besides `resource` and `audience`, for authorization servers with names of
    /// their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 2048)))]
    pub accepted_audiences: Vec<String>,

    /// Values of `iss` that fit besides the issuer, for authorization servers whose tokens name another one than
    /// their metadata, such as Entra with tokens of version 1 (`https://sts.windows.net/TENANT/`). Where
    /// `tokenUrl` is set no issuer is known, and these alone fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 2048)))]
    pub accepted_issuers: Vec<String>,
}

/// What `expires_in: 0` says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ZeroExpiresIn {
    #[default]
    Expired,
    Unlimited,
}

/// `Enforce`: a token of another issuer, for another audience or bound to another key is not handed out; what else
/// does not fit (scopes, times) the condition says. `Report`: every token is handed out, and the condition says
/// what does not fit. `Off`: nothing is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TokenCheckMode {
    #[default]
    Enforce,
    Report,
    Off,
}

fn yes() -> bool {
    true
}

pub(crate) fn default_request_timeout() -> String {
    "10s".to_owned()
}

/// A third of its life: the token is renewed when two thirds are over.
pub(crate) fn default_refresh_before() -> String {
    "33%".to_owned()
}
