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
/// old one. Nor is it for another resource than the one that it was minted for: one that was deleted and created again
/// with the same name and spec is another, and the token of the one before may have been revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialIdentity {
    request: String,
    resource_uid: Option<String>,
}

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
        Self {
            request: text.expect("a spec is plain values"),
            resource_uid: resource.metadata.uid.clone(),
        }
    }

    /// As replicas tell one another of it. Those that know nothing of uids tell `request` alone.
    pub(crate) fn from_parts(request: String, resource_uid: Option<String>) -> Self {
        Self {
            request,
            resource_uid,
        }
    }

    pub(crate) fn request(&self) -> &str {
        &self.request
    }

    /// The `metadata.uid` of the resource; `None` of a resource that is in no cluster, and of one that a replica of
    /// before uids were told tells of.
    pub fn resource_uid(&self) -> Option<&str> {
        self.resource_uid.as_deref()
    }

    /// The same in short, with the digest in place of the request.
    pub(crate) fn shortened(&self) -> Self {
        Self::from_parts(self.digest(), self.resource_uid.clone())
    }

    /// Whether a credential for the one is a credential for the other. An unknown uid is no difference.
    pub fn is_same_credential(&self, other: &Self) -> bool {
        self.request == other.request && !self.is_of_another_resource(other)
    }

    /// Whether both are known to be of different resources, whatever their specs are.
    pub fn is_of_another_resource(&self, other: &Self) -> bool {
        let uids = self.resource_uid.as_ref().zip(other.resource_uid.as_ref());
        uids.is_some_and(|(uid, other)| uid != other)
    }

    /// A short text that differs for different requests: the sync protocol's `mintedFor`.
    pub fn digest(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(&self.request).into();
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
