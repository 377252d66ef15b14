//! The status of the resource: what the operator says of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Provider, conditions, reasons};

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct McpServerAuthStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `SecretsResolved`, `TokenIssued`, `SidecarsSynced` and `ServerReachable`.
    #[serde(default)]
    #[schemars(schema_with = "condition_list")]
    pub conditions: Vec<Condition>,

    /// The token in use. Never the token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenStatus>,

    /// The authorization server, where it was discovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_server: Option<AuthorizationServerStatus>,

    /// What is requested with `spec.oauth2`: what it states, and what its provider wants for the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<EffectiveOAuth2>,

    /// The key that the operator makes for this client, with `clientAuthentication.privateKeyJwt.managed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_key: Option<ManagedKeyStatus>,

    /// The selected pods and their sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarsStatus>,
}

impl McpServerAuthStatus {
    /// Whether it says that no operator serves the resource. Whoever does has to write it anew.
    pub fn is_not_watched(&self) -> bool {
        let mut ready = self
            .conditions
            .iter()
            .filter(|condition| condition.type_ == conditions::READY);
        ready.any(|condition| condition.reason == reasons::NOT_WATCHED)
    }
}

/// A signing key that the operator makes, and where the authorization server finds it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedKeyStatus {
    /// Where the public keys are: the client's `jwks_uri`. A path alone where the operator does not know its public URL
    /// (`managedKeys.url` of the chart).
    pub jwks_uri: String,
    /// The client ID metadata document, whose URL may serve as the client identifier; only below an https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_metadata: Option<String>,
    /// The `kid` that assertions name now.
    pub key_id: String,
    /// The `kid` of the next key, which is published already.
    pub next_key_id: String,
    /// From when on the next key signs.
    pub rotates_at: Time,
}

/// The settings of `spec.oauth2` as they count. What is absent is not sent, or not compared.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveOAuth2 {
    /// `spec.oauth2.provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Provider")]
    pub provider: Option<Provider>,
    /// The token endpoint, where it is not discovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// The parameter `resource`; where discovery leads from the MCP server to its metadata, those may name it otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The parameter `audience`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The scopes; none: those that the MCP server names, or the authorization server's default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// `aud` of the assertion that the client signs about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_assertion_audience: Option<String>,
    /// `aud` of the assertion that the client signs as the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_assertion_audience: Option<String>,
    /// `aud` of the ServiceAccount token of `clientAuthentication.workloadIdentity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity_audience: Option<String>,
    /// Values of `aud` of the token that fit besides `resource` and `audience`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_audiences: Vec<String>,
    /// Values of `iss` of the token that fit besides the issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_issuers: Vec<String>,
    /// The life of a token that states none.
    pub assumed_lifetime: String,
}

/// What discovery found. An issuer that stands here is kept to: where the MCP server names another one, the
/// condition TokenIssued says so, and nothing is requested there until `spec.oauth2.issuer` names it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationServerStatus {
    /// Its issuer identifier, as its metadata state it.
    pub issuer: String,
    /// Where tokens are requested.
    pub token_endpoint: String,
    /// URL of the MCP server that it was found for.
    pub resource: String,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// When the token in use was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// When the token in use ends. Calls after that are answered with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When the operator requests the next token; a failed attempt is followed by further ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_at: Option<Time>,
    /// `Bearer` or `DPoP`; `Bearer (certificate-bound)` where the token says that it is bound to the client's
    /// certificate (RFC 8705).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// Scope that the authorization server granted, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// `JWT`, of which the claims are told, or `Opaque`, which only its authorization server can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// What a JWT says of itself, in the claims that standards define. The signature is the MCP server's to verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<TokenClaims>,
    /// How many tokens were issued for this resource today, the service's and users' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<TokenUsage>,
    /// The last failed token request; absent after a successful one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<TokenError>,
}

/// The tokens of one day. A token that another resource requested counts there alone.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUsage {
    /// The day, in UTC: `2026-11-30`.
    pub date: String,
    /// Tokens issued on that day so far, to the client that the resource has now. A replica that begins to lead goes on from here.
    pub issued: i64,
    /// Tokens by the end of the day, if it goes on like this.
    pub forecast: i64,
    /// `spec.oauth2.quota.tokensPerDay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
}

/// Registered claims of a token (RFC 7519 section 4.1, RFC 9068 section 2.2), each cut at 200 characters. Claims of an
/// authorization server's own are not here, since they may say anything of anybody, and neither is `jti`, which some
/// servers take in a token's place.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenClaims {
    /// `iss`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `sub`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `client_id`, or `azp`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// `aud`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// `scope`, or `scp`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// `exp`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// `nbf`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// `iat`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// `cnf.jkt`: the DPoP key that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_thumbprint: Option<String>,
    /// `cnf.x5t#S256`: the client certificate that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_thumbprint: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenError {
    /// When the request failed.
    pub time: Time,
    /// Error code of the authorization server (RFC 6749 section 5.2), or the kind of failure.
    pub reason: String,
    /// What the authorization server said, or what happened, and what to check.
    pub message: String,
}

/// How many of the selected pods' sidecars have the newest routes and tokens.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarsStatus {
    /// Pods whose sidecar uses the newest routes and tokens.
    pub synced: i32,
    /// Selected pods, whether they have a sidecar or not.
    pub total: i32,
    /// `synced/total`, for the printer column.
    pub summary: String,
    /// Selected pods that run without a sidecar, such as those that the webhook was not asked about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_injected: i32,
    /// Pods whose sidecar is older than this operator supports: one minor version.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub too_old: i32,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// A list with the condition's type as merge key, as Kubernetes' own kinds have it.
fn condition_list(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let condition = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
