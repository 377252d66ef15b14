//! The credentials in use, in memory only: reconcile publishes them, sync hands them out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use mcp_auth_crds::{ClientAuthentication, McpServerAuth, reasons};
use mcp_auth_oauth::Token;
use mcp_auth_protocol::sync::{ClientCertificate, Credential, Declined};
use sha2::{Digest, Sha256};

use crate::changes::Changes;
use crate::key::Key;

/// What the sidecars get of one resource besides its route.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    pub binding: Binding,
    pub credential: Credential,
    /// PEM certificates to trust at the MCP server besides the platform's.
    pub ca_bundle: Option<String>,
    /// Shown to the MCP server.
    pub client_certificate: Option<ClientCertificate>,
    /// What was demanded of the token and is not to be had.
    pub declined: Option<Declined>,
}

impl Issued {
    /// Nothing for now.
    fn pending(binding: Binding) -> Self {
        let message = "the operator has not yet obtained a token for this version of the resource";
        Self {
            binding,
            credential: Credential::Unavailable {
                reason: reasons::PENDING.into(),
                message: message.into(),
                keep: true,
            },
            ca_bundle: None,
            client_certificate: None,
            declined: None,
        }
    }
}

/// What a credential was obtained for: the server's URL, the authorization server and what was asked of it, but not how
/// the client proved who it is: a token is as good after its client's key has changed. A token is never handed out for another binding than its own, so that a changed URL
/// cannot be sent the token of the old one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding(String);

impl Binding {
    pub fn of(resource: &McpServerAuth) -> Self {
        let spec = &resource.spec;
        let mut oauth2 = spec.oauth2.clone();
        if let Some(oauth2) = &mut oauth2 {
            oauth2.client_authentication = ClientAuthentication::none();
            oauth2.refresh_before = String::new();
            oauth2.revoke_on_deletion = false;
            oauth2.step_up = false;
        }
        let parts = (&spec.server.url, &spec.server.tls, oauth2, &spec.bearer_token);
        Self(serde_json::to_string(&parts).expect("a spec is plain values"))
    }

    /// A short text that differs for different bindings.
    pub fn digest(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(&self.0).into();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a sidecar is given of a token.
pub fn bearer(token: &Token) -> Credential {
    Credential::Bearer {
        id: token.id.clone(),
        token: token.access_token.secret().as_str().into(),
        proof_key: token.proof_key.as_ref().map(|key| key.to_pem()),
        expires_at: token.expires_at.map(Timestamp::as_second),
    }
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Credentials {
    issued: Arc<Mutex<HashMap<Key, Issued>>>,
    changes: Changes,
}

impl Credentials {
    pub fn new(changes: Changes) -> Self {
        Self {
            issued: Arc::default(),
            changes,
        }
    }

    pub fn publish(&self, key: &Key, issued: Issued) {
        let before = self.lock().insert(key.clone(), issued.clone());
        if before.as_ref() != Some(&issued) {
            self.changes.announce(&key.namespace);
        }
    }

    pub fn withdraw(&self, key: &Key) {
        if self.lock().remove(key).is_some() {
            self.changes.announce(&key.namespace);
        }
    }

    /// What there is for a resource as it is now.
    pub fn of(&self, resource: &McpServerAuth) -> Issued {
        let binding = Binding::of(resource);
        let issued = self.lock();
        let issued = issued.get(&Key::from(resource)).cloned();
        issued
            .filter(|issued| issued.binding == binding)
            .unwrap_or_else(|| Issued::pending(binding))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Issued>> {
        self.issued
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(url: &str, cookie: &str) -> McpServerAuth {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "apps"},
            "spec": {
                "server": {"name": "tools", "url": url},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                "cookiePassthrough": {"enabled": true, "cookieNames": [cookie]},
            },
        }))
        .unwrap()
    }

    fn credential() -> Credential {
        Credential::Bearer {
            id: "1".into(),
            token: "t".into(),
            proof_key: None,
            expires_at: None,
        }
    }

    #[test]
    fn a_token_is_never_handed_out_for_another_url() {
        let credentials = Credentials::new(Changes::default());
        let before = resource("https://tools.example.com/mcp", "session_id");
        let bearer = credential();
        let issued = Issued {
            binding: Binding::of(&before),
            credential: bearer.clone(),
            ca_bundle: None,
            client_certificate: None,
            declined: None,
        };
        credentials.publish(&Key::from(&before), issued);
        assert_eq!(credentials.of(&before).credential, bearer);

        let moved = resource("https://elsewhere.example.com/mcp", "session_id");
        assert!(matches!(
            credentials.of(&moved).credential,
            Credential::Unavailable { .. }
        ));

        let other_cookie = resource("https://tools.example.com/mcp", "theme");
        assert_eq!(
            credentials.of(&other_cookie).credential,
            bearer,
            "cookies have nothing to do with the token"
        );
    }

    #[test]
    fn a_change_is_announced_once_to_its_namespace_only() {
        let changes = Changes::default();
        let credentials = Credentials::new(changes.clone());
        let (mut here, mut there) = (changes.subscribe("apps"), changes.subscribe("other"));
        here.mark_unchanged();
        there.mark_unchanged();
        let resource = resource("https://tools.example.com/mcp", "session_id");
        let issued = Issued {
            binding: Binding::of(&resource),
            credential: credential(),
            ca_bundle: None,
            client_certificate: None,
            declined: None,
        };
        credentials.publish(&Key::from(&resource), issued.clone());
        assert!(here.has_changed().unwrap());
        here.mark_unchanged();
        credentials.publish(&Key::from(&resource), issued);
        assert!(!here.has_changed().unwrap(), "the same again is no change");
        assert!(!there.has_changed().unwrap());
    }
}
