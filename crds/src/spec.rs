//! What users write. Rules that one object can decide alone are CEL rules here, so that `kubectl apply` answers
//! with them; what depends on other objects is decided by the operator and told in the status.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::McpServerAuthStatus;

/// McpServerAuth gives LiteLLM an authenticated way to one MCP server: the OAuth2 token that says who calls, and
/// the cookies and headers that say for which user.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "mcpauth.dev",
    version = "v1alpha1",
    kind = "McpServerAuth",
    shortname = "msa",
    category = "mcp",
    namespaced,
    status = "McpServerAuthStatus",
    derive = "PartialEq",
    doc = "McpServerAuth gives LiteLLM an authenticated way to one MCP server: the OAuth2 token that says who calls, and the cookies and headers that say for which user.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "SERVER", type_ = "string", json_path = ".spec.server.name"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".status.token.expiresAt"),
    printcolumn(name = "SIDECARS", type_ = "string", json_path = ".status.sidecars.summary"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.server.url", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.oauth2) != has(self.bearerToken)", "exactly one of oauth2 and bearerToken must be set"))]
pub struct McpServerAuthSpec {
    /// The MCP server, as LiteLLM's `mcp_servers` names it and as it is really reached.
    pub server: Server,

    /// Where the token comes from: an OAuth2 authorization server. Either this or `bearerToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,

    /// Where the token comes from: a Secret that something else keeps up to date. A changed value is taken over at
    /// once, without a restart of LiteLLM. Either this or `oauth2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<BearerToken>,

    /// Cookies of the calling user that are passed on to this MCP server.
    #[serde(default)]
    pub cookie_passthrough: CookiePassthrough,

    /// Headers of the calling user's request that are passed on to this MCP server.
    #[serde(default)]
    pub header_passthrough: HeaderPassthrough,

    /// Whether a tool call that carries none of the allow-listed cookies and headers is passed on (`Optional`) or
    /// answered with an error (`Required`). Discovery never carries any.
    #[serde(default)]
    pub user_context: UserContext,

    /// Which LiteLLM pods of this namespace reach the server this way. Default: those with the label
    /// `app.kubernetes.io/name: litellm`, as LiteLLM's charts set it.
    #[serde(default = "default_pod_selector")]
    #[schemars(schema_with = "label_selector")]
    pub pod_selector: LabelSelector,
}

/// An MCP server.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.url.matches('^https?://') && isURL(self.url) && url(self.url).getHost() != ''", "url must be an absolute http or https URL, such as https://tools.example.com/mcp"),
    validation = ("!self.url.contains('#')", "url must have no fragment (RFC 8707 section 2)"),
    validation = ("!self.url.matches('^[a-z]+://[^/?]*@')", "url must hold no user name or password"),
    validation = ("!self.url.startsWith('http://') || self.allowInsecureHttp", "url is plain http: the token and the user's cookies would be readable on the way. Use https, or set server.allowInsecureHttp: true"),
    validation = ("!has(self.tls) || self.url.startsWith('https://')", "tls needs an https url")
)]
pub struct Server {
    /// LiteLLM's key of this server in `mcp_servers`. Letters, digits and `_`: LiteLLM does not start with a `-` in
    /// it. If LiteLLM's configuration has no such entry, one is added.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_]+$"))]
    pub name: String,

    /// URL of the MCP server's endpoint. The token is requested for it and sent to its origin only.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,

    #[serde(default)]
    pub transport: Transport,

    /// How the server's certificate is verified, and which one is shown to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,

    /// Allows an `http` url. For tests, and for servers behind a mesh that encrypts.
    #[serde(default)]
    pub allow_insecure_http: bool,
}

/// Transport of the MCP server: `StreamableHTTP`, or the legacy `SSE` (HTTP with Server-Sent Events).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Transport {
    #[default]
    #[serde(rename = "StreamableHTTP")]
    StreamableHttp,
    #[serde(rename = "SSE")]
    Sse,
}

/// TLS towards the MCP server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// PEM certificates of authorities to trust besides the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,

    /// Certificate that the sidecar shows to the MCP server: a Secret of type `kubernetes.io/tls`. Its key is the one
    /// secret that does reach the sidecar, in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<SecretName>,
}

/// Where PEM certificates lie: exactly one of a Secret's and a ConfigMap's key.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.secretKeyRef) != has(self.configMapKeyRef)", "exactly one of secretKeyRef and configMapKeyRef must be set"))]
pub struct CaBundle {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// An OAuth2 authorization server and this client's registration there. The grant is client_credentials (RFC 6749
/// section 4.4) unless `jwtBearer` or `clientAuthentication.workloadIdentity` say otherwise; `tokenExchange` adds a
/// token for each user.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!(has(self.tokenUrl) && has(self.issuer))", "tokenUrl and issuer exclude each other; with neither of them the authorization server is discovered from the MCP server"),
    validation = ("!has(self.tokenUrl) || (self.tokenUrl.matches('^https?://') && isURL(self.tokenUrl) && url(self.tokenUrl).getHost() != '' && !self.tokenUrl.contains('#'))", "tokenUrl must be an absolute http or https URL without fragment, such as https://auth.example.com/oauth2/token"),
    validation = ("!has(self.tokenUrl) || !self.tokenUrl.startsWith('http://') || self.allowInsecureHttp", "tokenUrl is plain http: the client secret and the token would be readable on the way (RFC 6749 section 3.2 demands TLS). Use https, or set oauth2.allowInsecureHttp: true"),
    validation = ("!has(self.issuer) || self.issuer.startsWith('https://') || (self.allowInsecureHttp && self.issuer.startsWith('http://'))", "issuer must be an https URL, or an http one with oauth2.allowInsecureHttp: true"),
    validation = ("!(has(self.clientId) && has(self.clientIdSecretRef))", "clientId and clientIdSecretRef exclude each other"),
    validation = ("has(self.clientId) || has(self.clientIdSecretRef) || self.clientAuthentication.method == 'WorkloadIdentity' || (self.clientAuthentication.method == 'None' && has(self.jwtBearer))", "one of clientId and clientIdSecretRef must be set"),
    validation = ("self.clientAuthentication.method != 'None' || has(self.jwtBearer)", "clientAuthentication.method None needs jwtBearer: nothing else would say who asks"),
    validation = ("!has(self.jwtBearer) || !has(self.clientAuthentication.workloadIdentity) || self.clientAuthentication.workloadIdentity.assertion != 'JwtBearer'", "jwtBearer and clientAuthentication.workloadIdentity.assertion JwtBearer are two assertions for one grant: leave one out"),
    validation = ("!has(self.revocationUrl) || (has(self.tokenUrl) && self.revocationUrl.matches('^https?://') && isURL(self.revocationUrl))", "revocationUrl must be an absolute URL and belongs to tokenUrl; otherwise it is discovered"),
    validation = ("!has(self.revocationUrl) || !self.revocationUrl.startsWith('http://') || self.allowInsecureHttp", "revocationUrl is plain http. Use https, or set oauth2.allowInsecureHttp: true"),
    validation = ("!has(self.extraParameters) || self.extraParameters.all(k, !(k in ['grant_type', 'scope', 'audience', 'resource', 'client_id', 'client_secret', 'client_assertion', 'client_assertion_type', 'assertion', 'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type']))", "extraParameters must not hold grant_type, scope, audience, resource, assertion, a client_*, subject_* or actor_* parameter or requested_token_type: they have fields of their own")
)]
pub struct OAuth2 {
    /// URL of the token endpoint. Either this or `issuer`, or neither: then the authorization server is discovered from
    /// the MCP server's own metadata (RFC 9728).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub token_url: Option<String>,

    /// Issuer identifier; the token endpoint is discovered from its metadata (RFC 8414, OpenID Connect Discovery),
    /// which must name the same issuer. Either this or `tokenUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,

    /// The client identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: Option<String>,

    /// The client identifier, where it is kept beside the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_secret_ref: Option<KeyRef>,

    /// How the client authenticates at the token endpoint.
    pub client_authentication: ClientAuthentication,

    /// Asks with the grant jwt-bearer (RFC 7523 section 2.1) instead of client_credentials, by an assertion that
    /// something else keeps in a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_bearer: Option<JwtBearer>,

    /// A token of their own for each user, by token exchange (RFC 8693). Tool calls then carry the user's token and
    /// never the service's; what is called for no user, such as discovery, carries the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<TokenExchange>,

    /// `DPoP` binds the token to a key (RFC 9449): who steals the token alone cannot use it.
    #[serde(default)]
    pub token_type: TokenType,

    /// Scopes to request. None: the authorization server's default.
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

    /// The `resource` parameter (RFC 8707). Default: the server's URL, as MCP demands. Empty: not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub resource: Option<String>,

    /// Further parameters of the token request, but for those that have fields of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub extra_parameters: BTreeMap<String, String>,

    /// How long before its end a token is renewed. Default: `33%`. A duration (`90s`, `5m`, `1h30m`) or a share of its life (`33%`).
    #[serde(default = "default_refresh_before")]
    #[schemars(
        length(min = 2, max = 16),
        regex(pattern = r"^(([0-9]+h)?([0-9]+m)?([0-9]+s)?|[1-9][0-9]?%)$")
    )]
    pub refresh_before: String,

    /// Whether a token with fewer scopes than the MCP server demands (403, `insufficient_scope`) is asked for once
    /// more with those scopes added. Default: true. The authorization server decides what it grants.
    #[serde(default = "yes")]
    pub step_up: bool,

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

    /// Allows endpoints that were discovered to be at private addresses, such as Services of this cluster. Those
    /// that this resource states itself may be, and link-local ones never are.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// The grant jwt-bearer (RFC 7523 section 2.1).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtBearer {
    /// The assertion: a JWT that something else mints and renews. Taken over the moment it changes.
    pub assertion_ref: KeyRef,
}

/// Token exchange (RFC 8693) for each user.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.subjectCookie) != has(self.subjectHeader)", "exactly one of subjectCookie and subjectHeader must be set"),
    validation = ("!has(self.subjectCookie) || self.subjectCookie != 'token'", "the cookie `token` is LiteLLM's own UI session and is never used"),
    validation = ("!has(self.subjectHeader) || !(self.subjectHeader.lowerAscii() in ['authorization', 'proxy-authorization', 'cookie', 'host', 'x-litellm-api-key', 'api-key', 'x-api-key'])", "subjectHeader must not be a header that carries LiteLLM's own credentials or belongs to the connection")
)]
pub struct TokenExchange {
    /// Cookie of the user's request whose value is the subject token. It goes to the authorization server, and to the
    /// MCP server only if `cookiePassthrough` names it too.
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

    /// Type of token to ask for. Default: left to the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub requested_token_type: Option<String>,
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

    /// Values of `aud` that fit besides `resource` and `audience`, for authorization servers with names of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 2048)))]
    pub accepted_audiences: Vec<String>,
}

/// `Enforce`: a token that does not fit is not handed out. `Report`: it is, and the condition says what does not fit.
/// `Off`: nothing is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TokenCheckMode {
    #[default]
    Enforce,
    Report,
    Off,
}

/// How the client authenticates at the token endpoint.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("(self.method in ['ClientSecretBasic', 'ClientSecretPost']) == has(self.clientSecretRef)", "clientSecretRef belongs to the methods ClientSecretBasic and ClientSecretPost, which need it"),
    validation = ("!has(self.alternateClientSecretRef) || has(self.clientSecretRef)", "alternateClientSecretRef is the second of two: set clientSecretRef too"),
    validation = ("(self.method == 'PrivateKeyJwt') == has(self.privateKeyJwt)", "privateKeyJwt belongs to the method PrivateKeyJwt, which needs it"),
    validation = ("(self.method == 'TlsClientAuth') == has(self.certificateRef)", "certificateRef belongs to the method TlsClientAuth, which needs it"),
    validation = ("has(self.workloadIdentity) ? self.method == 'WorkloadIdentity' : true", "workloadIdentity belongs to the method WorkloadIdentity")
)]
pub struct ClientAuthentication {
    pub method: ClientAuthenticationMethod,

    /// The client secret, for ClientSecretBasic and ClientSecretPost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<KeyRef>,

    /// A second client secret, the previous or the next one: tried where the authorization server refuses the first
    /// with `invalid_client`, so that a rotation has no moment at which neither works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_client_secret_ref: Option<KeyRef>,

    /// The signing key, for PrivateKeyJwt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_jwt: Option<PrivateKeyJwt>,

    /// The client certificate, for TlsClientAuth: a Secret of type `kubernetes.io/tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<SecretName>,

    /// The operator's own ServiceAccount token, for WorkloadIdentity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
}

impl ClientAuthentication {
    /// The method None.
    pub fn none() -> Self {
        Self {
            method: ClientAuthenticationMethod::None,
            client_secret_ref: None,
            alternate_client_secret_ref: None,
            private_key_jwt: None,
            certificate_ref: None,
            workload_identity: None,
        }
    }
}

/// Client authentication method: the secret in the Authorization header (`ClientSecretBasic`) or in the body
/// (`ClientSecretPost`), RFC 6749 section 2.3.1; a signed assertion (`PrivateKeyJwt`), RFC 7523; a TLS client
/// certificate (`TlsClientAuth`), RFC 8705; the operator's Kubernetes identity (`WorkloadIdentity`), RFC 7523; not at
/// all (`None`), where the assertion of `jwtBearer` says it all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientAuthenticationMethod {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    TlsClientAuth,
    WorkloadIdentity,
    None,
}

/// Client authentication by a signed assertion (RFC 7523 section 2.2).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKeyJwt {
    /// The private key, in PEM or as a JWK.
    pub key_ref: KeyRef,

    /// The `kid` header of the assertion. Default: the JWK's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,

    /// The signature algorithm. Default: by the kind of key, RS256, ES256 or EdDSA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SignatureAlgorithm")]
    pub algorithm: Option<SignatureAlgorithm>,

    /// The `aud` claim of the assertion. Default: the issuer where it is known, else the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
}

/// JWS signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SignatureAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// A token of the operator's ServiceAccount as the client's identity. The namespace must be among those that the
/// operator's settings allow to act as it (`workloadIdentity.namespaces` of the chart).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Audience of the ServiceAccount token. Default: the issuer or the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,

    #[serde(default)]
    pub assertion: WorkloadAssertion,
}

/// The ServiceAccount token authenticates the client (`ClientAssertion`, RFC 7523 section 2.2), or is the grant
/// itself (`JwtBearer`, section 2.1).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum WorkloadAssertion {
    #[default]
    ClientAssertion,
    JwtBearer,
}

/// A token that something else keeps in a Secret.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BearerToken {
    pub secret_key_ref: KeyRef,
}

/// Cookies passed on by name.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!self.enabled || (has(self.cookieNames) && size(self.cookieNames) > 0)", "cookieNames must name the cookies to pass on: there is no wildcard"),
    validation = ("!has(self.cookieNames) || !self.cookieNames.exists(n, n == 'token')", "the cookie `token` is LiteLLM's own UI session and is never passed on")
)]
pub struct CookiePassthrough {
    /// Whether the cookies named are passed on. Default: false.
    #[serde(default)]
    pub enabled: bool,

    /// Names of the cookies, compared byte for byte; no patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 128),
            regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
        )
    )]
    pub cookie_names: Vec<String>,
}

/// Headers passed on by name.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.headerNames) || self.headerNames.all(n, !(n.lowerAscii() in ['authorization', 'proxy-authorization', 'proxy-authenticate', 'cookie', 'set-cookie', 'host', 'connection', 'keep-alive', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'content-length', 'content-type', 'content-encoding', 'accept', 'accept-encoding', 'x-litellm-api-key', 'api-key', 'x-api-key', 'x-goog-api-key', 'ocp-apim-subscription-key', 'x-mcp-auth', 'expect', 'proxy-connection', 'last-event-id']))", "headerNames must not hold credentials, cookies, hop-by-hop headers or headers of the MCP transport"),
    validation = ("!has(self.headerNames) || self.headerNames.all(n, !n.lowerAscii().startsWith('mcp-') && !n.lowerAscii().startsWith('mcpauth-'))", "headerNames must not hold headers of the MCP transport or of mcp-auth")
)]
pub struct HeaderPassthrough {
    /// Names of the headers, in any case; no patterns. For front ends that state the user, such as X-Forwarded-User.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(
            length(min = 1, max = 128),
            regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
        )
    )]
    pub header_names: Vec<String>,
}

/// Whether a tool call needs user context.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum UserContext {
    #[default]
    Optional,
    Required,
}

/// A key of a Secret or ConfigMap in the resource's namespace.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    /// Its key.
    pub key: String,
}

/// A Secret in the resource's namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct SecretName {
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// The official charts label their pods so.
fn default_pod_selector() -> LabelSelector {
    LabelSelector {
        match_labels: Some([("app.kubernetes.io/name".to_owned(), "litellm".to_owned())].into()),
        ..LabelSelector::default()
    }
}

fn yes() -> bool {
    true
}

/// RFC 8693 section 3.
fn access_token_type() -> String {
    "urn:ietf:params:oauth:token-type:access_token".to_owned()
}

/// A third of its life: the token is renewed when two thirds are over.
fn default_refresh_before() -> String {
    "33%".to_owned()
}

fn label_selector(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = LabelSelector::json_schema(generator);
    schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    schema
}
