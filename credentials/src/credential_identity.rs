//! Credential identity: what a credential was minted for; and the digest of the request that would mint it.
//! Both leave the same fields out.

use mcp_auth_crds::{
    ClientAuthentication, EgressProxy, EgressProxyUsers, GitHubApp, IdentityProvider, KeyRef, McpServerAuth,
    McpServerAuthSpec, OAuth2, TokenExchange,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a credential was minted for: the server's URL, the authorization server and what was requested of it,
/// but not how the client proved who it is: a token is as good after its client's key has changed. A token is
/// never handed out for another identity than its own, so that a changed URL cannot be sent the token of the
/// old one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CredentialIdentity(String);

impl CredentialIdentity {
    pub fn for_resource(resource: &McpServerAuth) -> Self {
        let spec = &resource.spec;
        let oauth2 = spec.oauth2.as_ref().map(|oauth2| OAuth2 {
            client_authentication: ClientAuthentication::none(),
            token_exchange: oauth2.token_exchange.clone().map(without_client_authentication),
            ..request_fields(oauth2)
        });
        let app = spec.github_app.as_ref().map(|app| GitHubApp {
            key_ref: KeyRef {
                name: String::new(),
                key: String::new(),
            },
            ..app_request_fields(app)
        });
        let server = (&spec.server.url, &spec.server.tls);
        let text = match &app {
            Some(app) => serde_json::to_string(&(server.0, server.1, app)),
            None => serde_json::to_string(&(server.0, server.1, oauth2, &spec.bearer_token)),
        };
        Self(text.expect("a spec is plain values"))
    }

    /// A short text that differs for different identities: the sync protocol's `mintedFor`.
    pub fn digest(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(&self.0).into();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A digest of everything that a token request depends on: the server, the egress proxy, all of `oauth2` or `githubApp` but when and how
/// long its token is kept, and the values of the references, secrets included. The issuer that was discovered is
/// not among it: it comes of the same registration.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// `values` are those of the references, each with the field that names it.
    pub fn new(spec: &McpServerAuthSpec, values: &[(&str, SecretString)]) -> Self {
        // Tokens are requested in the same way, whoever else goes through the proxy.
        let proxy = spec.egress_proxy.clone().map(|proxy| EgressProxy {
            used_by: EgressProxyUsers::default(),
            ..proxy
        });
        let url = &spec.server.url;
        let oauth2 = spec.oauth2.as_ref().map(request_fields);
        let text = match &spec.github_app {
            Some(app) => serde_json::to_vec(&(url, &proxy, app_request_fields(app))),
            None => serde_json::to_vec(&(url, &proxy, oauth2)),
        };
        let mut digest = Sha256::new();
        digest.update(text.expect("a spec is plain values"));
        for (field, value) in values {
            let value = value.expose_secret().as_bytes();
            digest.update(field);
            digest.update(value.len().to_be_bytes());
            digest.update(value);
        }
        Self(digest.finalize().into())
    }
}

/// The one list of fields that change what is done with a token, and not which token it is.
fn request_fields(oauth2: &OAuth2) -> OAuth2 {
    OAuth2 {
        refresh_before: String::new(),
        assumed_lifetime: None,
        revoke_on_deletion: false,
        step_up: false,
        step_up_allowed_scopes: Vec::new(),
        quota: None,
        ..oauth2.clone()
    }
}

/// The same users' tokens, however the client proves at the identity provider who it is.
fn without_client_authentication(exchange: TokenExchange) -> TokenExchange {
    TokenExchange {
        identity_provider: exchange.identity_provider.map(|provider| IdentityProvider {
            client_authentication: None,
            ..provider
        }),
        ..exchange
    }
}

/// The same of `githubApp`.
fn app_request_fields(app: &GitHubApp) -> GitHubApp {
    GitHubApp {
        refresh_before: String::new(),
        ..app.clone()
    }
}
