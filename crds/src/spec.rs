//! The spec of the resource: what users write. Rules that one object can decide alone are CEL rules here, so
//! that `kubectl apply` answers with them; what depends on other objects is decided by the operator and
//! reported in the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Audit, GitHubApp, LiteLlm, McpServerAuthStatus, OAuth2};

/// McpServerAuth gives LiteLLM an authenticated way to one MCP server: the OAuth2 token that says who calls,
/// and the cookies and headers that say for which user.
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
    doc = "McpServerAuth gives LiteLLM an authenticated way to one MCP server: the OAuth2 token that says \
        who calls, and the cookies and headers that say for which user.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "SERVER", type_ = "string", json_path = ".spec.server.name"),
    printcolumn(name = "EXPIRES", type_ = "string", json_path = ".status.token.expiresAt"),
    printcolumn(name = "SIDECARS", type_ = "string", json_path = ".status.sidecars.summary"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.server.url", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = default_selector_is_not_stored)]
#[x_kube(validation = (
    "(has(self.oauth2) ? 1 : 0) + (has(self.githubApp) ? 1 : 0) + (has(self.bearerToken) ? 1 : 0) == 1",
    "exactly one of oauth2, githubApp and bearerToken must be set"
), validation = (
    "!has(self.egressProxy) || !has(self.egressProxy.usedBy) || self.egressProxy.usedBy != 'OperatorAndSidecars' || \
     self.server.url.startsWith('https://')",
    "egressProxy.usedBy OperatorAndSidecars needs an https server.url: by plain http the proxy would read the token and the \
     user's cookies"
), validation = (
    "!has(self.server.affinityCookies) || !self.server.affinityCookies.exists(n, \
     (has(self.cookiePassthrough) && has(self.cookiePassthrough.cookieNames) && n in self.cookiePassthrough.cookieNames) || \
     (has(self.oauth2) && has(self.oauth2.tokenExchange) && has(self.oauth2.tokenExchange.subjectCookie) && \
     n == self.oauth2.tokenExchange.subjectCookie) || \
     (has(self.audit) && has(self.audit.user) && has(self.audit.user.cookie) && n == self.audit.user.cookie))",
    "server.affinityCookies names a cookie of users, and a load balancer's cookie is none of theirs; take it out of \
     affinityCookies, or out of cookiePassthrough.cookieNames, oauth2.tokenExchange.subjectCookie and audit.user.cookie"
))]
pub struct McpServerAuthSpec {
    /// The MCP server, as LiteLLM's `mcp_servers` names it and as it is really reached.
    pub server: Server,

    /// Where the token comes from: an OAuth2 authorization server. Exactly one of this, `githubApp` and `bearerToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,

    /// Where the token comes from: an installation of a GitHub App. Exactly one of this, `oauth2` and `bearerToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub github_app: Option<GitHubApp>,

    /// Where the token comes from: a Secret that something else keeps up to date. A changed value is taken
    /// over at once, without a restart of LiteLLM. Exactly one of this, `oauth2` and `githubApp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<BearerToken>,

    /// Cookies of the calling user that are passed on to this MCP server.
    #[serde(default)]
    pub cookie_passthrough: CookiePassthrough,

    /// Headers of the calling user's request that are passed on to this MCP server.
    #[serde(default)]
    pub header_passthrough: HeaderPassthrough,

    /// Whether a request that carries none of the allow-listed cookies and headers is passed on (`Optional`) or
    /// answered with an error (`Required`). Discovery never carries any, and always passes: opening a session, ping,
    /// notifications and lists.
    #[serde(default)]
    pub user_context: UserContext,

    /// What LiteLLM is told of this MCP server where its own configuration has no entry `server.name` in
    /// `mcp_servers`. Where it has one, that one counts, and a difference is told in `SidecarsSynced`. A change
    /// takes effect when LiteLLM starts again.
    #[serde(default, rename = "liteLLM", skip_serializing_if = "Option::is_none")]
    pub litellm: Option<LiteLlm>,

    /// What the sidecars write of each call to this MCP server into their audit log.
    #[serde(default)]
    pub audit: Audit,

    /// HTTP proxy on the operator's way to the authorization server: for token, discovery and revocation requests, and
    /// for the request that asks the MCP server for its authorization server. Default: the operator's own
    /// (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). With `usedBy: OperatorAndSidecars` calls of the MCP server go through it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,

    /// Whether the operator restarts the workload of a LiteLLM that has to start again, as `kubectl rollout restart` does:
    /// because a server came, changed or went, a pod runs without the sidecar, or its sidecar is too old. Default: what
    /// `restart.mode` of the chart says, which also has to allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RestartPolicy")]
    pub restart: Option<RestartPolicy>,

    /// Which LiteLLM pods of this namespace reach the server this way. Default: those with the label
    /// `app.kubernetes.io/name: litellm`, as LiteLLM's charts set it. The default is not stored, so that labels
    /// given later take its place.
    #[serde(default = "default_pod_selector")]
    #[schemars(schema_with = "label_selector")]
    pub pod_selector: LabelSelector,
}

/// `Automatic`: once for each change, one workload of a namespace at a time. `Manual`: the status says which pods need it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RestartPolicy {
    Automatic,
    Manual,
}

/// An MCP server.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.url.matches('^https?://') && isURL(self.url) && url(self.url).getHost() != ''",
        "url must be an absolute http or https URL, such as https://tools.example.com/mcp"
    ),
    validation = ("!self.url.contains('#')", "url must have no fragment (RFC 8707 section 2)"),
    validation = ("!self.url.matches('^[a-z]+://[^/?]*@')", "url must hold no user name or password"),
    validation = (
        "!self.url.startsWith('http://') || self.allowInsecureHttp",
        "url is plain http: the token and the user's cookies would be readable on the way. Use https, or \
         set server.allowInsecureHttp: true"
    ),
    validation = ("!has(self.tls) || self.url.startsWith('https://')", "tls needs an https url"),
    validation = (
        "!has(self.affinityCookies) || !self.affinityCookies.exists(n, n == 'token')",
        "the cookie `token` is LiteLLM's own UI session and is never passed on"
    )
)]
pub struct Server {
    /// LiteLLM's key of this server in `mcp_servers`. Letters, digits and `_`: LiteLLM does not start with a
    /// `-` in it. If LiteLLM's configuration has no such entry, one is added.
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

    /// Whether HTTP/2 is offered to the server over TLS. A server whose answers over HTTP/2 are malformed is spoken to by
    /// HTTP/1.1 for ten minutes after such an answer; `Disabled` does without it.
    #[serde(default)]
    pub http2: Http2,

    /// Longest wait for the headers of an answer, and for more of one that is no event stream. Default: `300s`; for tools
    /// that run for longer and answer in one piece. Give LiteLLM's `timeout` for the server at least as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,4}s$"))]
    pub answer_timeout: Option<String>,

    /// Names of cookies by which a load balancer before the server keeps a session at one of several servers, compared byte
    /// for byte; beside those of AWS, Azure, Google Cloud, Cloudflare, F5, HAProxy, nginx and ingress-nginx, which are known.
    /// They are kept for each session of the MCP server, and come from the server alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(
            length(min = 1, max = 128),
            regex(pattern = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
        )
    )]
    pub affinity_cookies: Vec<String>,

    /// Allows an `http` url. For tests, and for servers behind a mesh that encrypts.
    #[serde(default)]
    pub allow_insecure_http: bool,
}

/// Whether HTTP/2 is offered to the server.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Http2 {
    /// The server chooses.
    #[default]
    Automatic,
    /// HTTP/1.1 always.
    Disabled,
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

    /// Certificate that the sidecar shows to the MCP server: a Secret of type `kubernetes.io/tls`. Its key
    /// reaches the sidecar, in memory only, as no other secret does but the egress proxy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<SecretName>,
}

/// Where PEM certificates lie: exactly one of a Secret's and a ConfigMap's key.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.secretKeyRef) != has(self.configMapKeyRef)",
    "exactly one of secretKeyRef and configMapKeyRef must be set"
))]
pub struct CaBundle {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// An HTTP proxy. Requests by TLS go through a tunnel (CONNECT): it sees host and port of the server, and nothing else.
#[derive(KubeSchema, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.url.matches('^https?://[^/?#@]+/?$') && isURL(self.url) && url(self.url).getHost() != ''",
        "url must be the http or https URL of a proxy without path, user name and password, such as \
         http://proxy.example.com:3128; credentials belong into credentialsRef"
    )
)]
pub struct EgressProxy {
    /// URL of the proxy.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,

    /// Whose requests go through it: `Operator`, those to the authorization server, or `OperatorAndSidecars`, those of
    /// LiteLLM to the MCP server too, which has to have an https `url`. Default: `Operator`.
    #[serde(default, skip_serializing_if = "EgressProxyUsers::is_operator")]
    pub used_by: EgressProxyUsers,

    /// User name and password at the proxy: the keys `username` and `password` of a Secret, as those of type
    /// `kubernetes.io/basic-auth` have them. They are for the proxy alone; with `usedBy: OperatorAndSidecars` they reach the
    /// sidecars, in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<SecretName>,

    /// Hosts that are reached without the proxy, as programs in Go read `NO_PROXY`: a domain with all that is below it
    /// (`.example.com` and `*.example.com`: only what is below it), an IP address, either with a port where that alone is meant, a
    /// range of addresses (`10.0.0.0/8`), or `*` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), regex(pattern = r"^[^,\s]+$"))
    )]
    pub no_proxy: Vec<String>,
}

/// Whose requests go through an egress proxy.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum EgressProxyUsers {
    /// The operator's, to the authorization server.
    #[default]
    Operator,
    /// Those of the sidecars to the MCP server too.
    OperatorAndSidecars,
}

impl EgressProxyUsers {
    fn is_operator(&self) -> bool {
        *self == Self::Operator
    }
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
    validation = (
        "!has(self.enabled) || !self.enabled || (has(self.cookieNames) && size(self.cookieNames) > 0)",
        "cookieNames must name the cookies to pass on: there is no wildcard"
    ),
    validation = (
        "has(self.enabled) || !has(self.cookieNames) || size(self.cookieNames) == 0",
        "cookieNames needs enabled: true, which passes the cookies on, or enabled: false, which keeps them back"
    ),
    validation = (
        "!has(self.cookieNames) || self.cookieNames.all(n, !n.contains('*') && !n.contains('|') && \
         !n.startsWith('^') && !n.endsWith('$'))",
        "cookieNames looks like a pattern: names are compared byte for byte, so name each cookie in full"
    ),
    validation = (
        "!has(self.cookieNames) || !self.cookieNames.exists(n, n == 'token')",
        "the cookie `token` is LiteLLM's own UI session and is never passed on"
    )
)]
pub struct CookiePassthrough {
    /// Whether the cookies named are passed on. To be stated where there are any. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,

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
    validation = (
        "!has(self.headerNames) || self.headerNames.all(n, !(n.lowerAscii() in ['accept', \
         'accept-encoding', 'api-key', 'authorization', 'connection', 'cookie', 'cookie2', 'dpop', \
         'expect', 'forwarded', 'host', 'http2-settings', 'keep-alive', 'last-event-id', \
         'ocp-apim-subscription-key', 'origin', 'set-cookie', 'set-cookie2', 'te', 'trailer', \
         'transfer-encoding', 'upgrade', 'via', 'www-authenticate', 'x-api-key', 'x-forwarded-for', \
         'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-forwarded-proto', \
         'x-forwarded-scheme', 'x-forwarded-server', 'x-forwarded-ssl', 'x-goog-api-key', \
         'x-litellm-api-key', 'x-mcp-auth', 'x-original-forwarded-for', 'x-original-host', 'x-real-ip']))",
        "headerNames must not hold credentials, cookies, headers of the connection or of the MCP \
         transport, or headers that say where a request came from, such as X-Forwarded-For"
    ),
    validation = (
        "!has(self.headerNames) || self.headerNames.all(n, !n.lowerAscii().startsWith('proxy-') && \
         !n.lowerAscii().startsWith('content-') && !n.lowerAscii().startsWith('sec-websocket-'))",
        "headerNames must not hold headers of the body or of the connection"
    ),
    validation = (
        "!has(self.headerNames) || self.headerNames.all(n, !n.lowerAscii().startsWith('mcp-') && \
         !n.lowerAscii().startsWith('mcpauth-'))",
        "headerNames must not hold headers of the MCP transport or of mcp-auth"
    ),
    validation = (
        "!has(self.headerNames) || self.headerNames.all(n, !n.contains('*') && !n.contains('|') && \
         !n.startsWith('^') && !n.endsWith('$'))",
        "headerNames looks like a pattern: name each header in full"
    )
)]
pub struct HeaderPassthrough {
    /// Names of the headers, in any case; no patterns. For front ends that state the user, such as
    /// X-Forwarded-User, and that remove it from what clients send.
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

/// Whether all but discovery needs user context.
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
    /// Name of the Secret.
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

/// A default that is stored merges with labels that are applied later, and the two together select nothing. It is
/// applied when the resource is read.
fn default_selector_is_not_stored(schema: &mut schemars::Schema) {
    if let Some(selector) = schema
        .pointer_mut("/properties/podSelector")
        .and_then(|it| it.as_object_mut())
    {
        selector.remove("default");
    }
}

fn label_selector(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = LabelSelector::json_schema(generator);
    schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    // It is matched against each pod of the namespace, again and again.
    for (pointer, bound, most) in [
        ("/properties/matchLabels", "maxProperties", 64),
        ("/properties/matchExpressions", "maxItems", 64),
        (
            "/properties/matchExpressions/items/properties/values",
            "maxItems",
            64,
        ),
    ] {
        if let Some(part) = schema.pointer_mut(pointer).and_then(|part| part.as_object_mut()) {
            part.insert(bound.to_owned(), most.into());
        }
    }
    schema
}
