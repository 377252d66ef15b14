//! An installation of a GitHub App: what an installation access token is requested with.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CaBundle, KeyRef};

/// Installation access tokens of a GitHub App. The operator signs a JWT with the app's private key and has GitHub
/// issue a token for it, which lives for an hour; none of that is OAuth2.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.apiUrl.matches('^https?://[^?#@]+$') && isURL(self.apiUrl) && url(self.apiUrl).getHost() != ''",
        "apiUrl must be an absolute http or https URL without user name, password, query and fragment, such as \
         https://github.example.com/api/v3"
    ),
    validation = (
        "!self.apiUrl.startsWith('http://') || self.allowInsecureHttp",
        "apiUrl is plain http: the app's JWT and the token would be readable on the way. Use https, or set \
         githubApp.allowInsecureHttp: true"
    ),
    validation = (
        "!has(self.repositories) || self.repositories.all(r, r.matches('^[A-Za-z0-9._-]+$'))",
        "repositories must be named without their owner: tools, not company/tools"
    ),
    validation = (
        "!has(self.permissions) || self.permissions.all(p, p.matches('^[a-z][a-z_]*$'))",
        "permissions must be named as in GitHub's API, such as contents or pull_requests"
    )
)]
pub struct GitHubApp {
    /// App ID, the number in the app's settings.
    #[schemars(range(min = 1))]
    pub app_id: i64,

    /// Installation ID, the number at the end of the installation's address.
    #[schemars(range(min = 1))]
    pub installation_id: i64,

    /// A private key of the app, as GitHub generated it: RSA, in PEM.
    pub key_ref: KeyRef,

    /// Base URL of GitHub's REST API. Default: `https://api.github.com`. For GitHub Enterprise Server
    /// `https://HOST/api/v3`.
    #[serde(default = "default_api_url")]
    #[schemars(length(min = 1, max = 2048))]
    pub api_url: String,

    /// Repositories that the token is for, by name without owner. None: all of the installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), inner(length(min = 1, max = 100)))]
    pub repositories: Vec<String>,

    /// Permissions of the token, by their names in GitHub's API, such as `contents: read`. None: all that the
    /// installation has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub permissions: BTreeMap<String, GitHubPermission>,

    /// How long before its end a token is renewed. Default: `33%`. A duration (`90s`, `5m`) or a share of its life
    /// (`33%`).
    #[serde(default = "crate::oauth2::default_refresh_before")]
    #[schemars(
        length(min = 2, max = 16),
        regex(pattern = r"^(([0-9]+h)?([0-9]+m)?([0-9]+s)?|[1-9][0-9]?%)$")
    )]
    pub refresh_before: String,

    /// Longest time that one request to GitHub may take. Default: `10s`; up to `60s`.
    #[serde(default = "crate::oauth2::default_request_timeout")]
    #[schemars(regex(pattern = r"^([1-9]|[1-5][0-9]|60)s$"))]
    pub request_timeout: String,

    /// PEM certificates of authorities to trust at `apiUrl` besides the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,

    /// Allows an `http` apiUrl. For tests.
    #[serde(default)]
    pub allow_insecure_http: bool,
}

/// Access that a permission gives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GitHubPermission {
    Read,
    Write,
    Admin,
}

fn default_api_url() -> String {
    "https://api.github.com".to_owned()
}
