//! The credentials in use, in memory only: token sources publish them, sync hands them out, and the status
//! tells of them.

mod state;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;
use mcp_auth_protocol::sync::Credential;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::changes::Changes;
use crate::credential_identity::CredentialIdentity;
use crate::replicated_user_tokens::ReplicatedUserTokens;
use crate::resource_ref::ResourceRef;
use crate::user_token_exchanger::UserTokenExchanger;

pub use state::{
    ClientUsage, CredentialState, DiscoveredServer, Issuance, LastError, SaidOfQuota, ServerConnection,
    ServerLookUp, SupersededToken, TokenInUse, TokenSnapshot, TokenUsage,
};

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Credentials {
    states: Arc<Mutex<HashMap<ResourceRef, PublishedState>>>,
    /// For other replicas: number of the last change of what they are given.
    revision: Arc<watch::Sender<u64>>,
    user_tokens: ReplicatedUserTokens,
    /// For sync: what sidecars are given changed.
    changes: Changes,
    /// For the status: each resource that it is to be looked at for.
    status_due: mpsc::UnboundedSender<ResourceRef>,
}

struct PublishedState {
    state: CredentialState,
    /// Number of the last change of what other replicas are given of it.
    revision: u64,
}

impl Credentials {
    pub fn new(changes: Changes, status_due: mpsc::UnboundedSender<ResourceRef>) -> Self {
        Self {
            states: Arc::default(),
            revision: Arc::new(watch::Sender::new(0)),
            user_tokens: ReplicatedUserTokens::default(),
            changes,
            status_due,
        }
    }

    pub fn publish(&self, resource: &ResourceRef, state: CredentialState) {
        let mut states = self.states.lock();
        let before = states.remove(resource);
        let before_state = before.as_ref().map(|before| &before.state);
        let revision = match &before {
            Some(before) if before.state.is_same_for_replicas(&state) => before.revision,
            _ => self.next_revision(),
        };
        let published = PublishedState {
            state: state.clone(),
            revision,
        };
        states.insert(resource.clone(), published);
        drop(states);
        if !before_state.is_some_and(|before| before.is_same_for_sidecars(&state)) {
            self.changes.announce(&resource.namespace);
        }
        if !before_state.is_some_and(|before| before.is_same_for_status(&state)) {
            // Without a receiver the operator is stopping.
            let _ = self.status_due.send(resource.clone());
        }
    }

    pub fn withdraw(&self, resource: &ResourceRef) {
        let mut states = self.states.lock();
        let before = states.remove(resource);
        if before.is_some() {
            self.next_revision();
        }
        drop(states);
        self.user_tokens.forget(resource);
        if before.is_some() {
            self.changes.announce(&resource.namespace);
        }
    }

    /// Users' own tokens, of all resources.
    pub fn user_tokens(&self) -> &ReplicatedUserTokens {
        &self.user_tokens
    }

    /// Tells of each change of what other replicas are given.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What has changed since this revision, and whether anything was withdrawn is for the caller to see by
    /// [`Self::resources`].
    pub fn changed_since(&self, revision: u64) -> Vec<(ResourceRef, CredentialState)> {
        let states = self.states.lock();
        let changed = states
            .iter()
            .filter(|(_, published)| published.revision > revision);
        changed
            .map(|(resource, published)| (resource.clone(), published.state.clone()))
            .collect()
    }

    /// Every resource that something is published for.
    pub fn resources(&self) -> HashSet<ResourceRef> {
        self.states.lock().keys().cloned().collect()
    }

    /// Number of the last change of what is published for a resource, as far as sidecars or other replicas are given it. Equal
    /// numbers are of the same.
    pub fn revision(&self, resource: &ResourceRef) -> Option<u64> {
        let states = self.states.lock();
        states.get(resource).map(|published| published.revision)
    }

    /// What was published for a resource as it is now.
    pub fn published(&self, resource: &McpServerAuth) -> Option<CredentialState> {
        let credential_identity = CredentialIdentity::for_resource(resource);
        let states = self.states.lock();
        let state = states
            .get(&ResourceRef::from(resource))
            .map(|published| published.state.clone());
        drop(states);
        state.filter(|state| state.credential_identity.is_same_credential(&credential_identity))
    }

    /// Whether what was published is of a resource that is gone, and has the name of this one.
    pub fn is_of_former_resource(&self, resource: &McpServerAuth) -> bool {
        let states = self.states.lock();
        let published = states.get(&ResourceRef::from(resource));
        published.is_some_and(|published| {
            let identity = &published.state.credential_identity;
            identity.is_of_another_resource(&CredentialIdentity::for_resource(resource))
        })
    }

    /// Whether sidecars are given a token for a resource as it is now. It is asked for crowds, and most have none.
    pub fn has_token(&self, resource: &McpServerAuth) -> bool {
        let states = self.states.lock();
        let published = states.get(&ResourceRef::from(resource));
        let state = published.map(|published| &published.state);
        state.is_some_and(|state| {
            matches!(state.credential, Credential::Bearer { .. })
                && state
                    .credential_identity
                    .is_same_credential(&CredentialIdentity::for_resource(resource))
        })
    }

    /// What sidecars are given for a resource as it is now.
    pub fn get(&self, resource: &McpServerAuth) -> CredentialState {
        let pending = || CredentialState::pending(CredentialIdentity::for_resource(resource));
        self.published(resource).unwrap_or_else(pending)
    }

    /// How users get tokens of their own for a resource as it is now.
    pub fn exchanger(&self, resource: &McpServerAuth) -> Option<Arc<UserTokenExchanger>> {
        self.published(resource)?.exchanger
    }

    /// Called with the states locked, so that no revision is seen before what it is of.
    fn next_revision(&self) -> u64 {
        self.revision.send_modify(|revision| *revision += 1);
        *self.revision.borrow()
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
        let credentials = Credentials::new(Changes::default(), mpsc::unbounded_channel().0);
        let before = resource("https://tools.example.com/mcp", "session_id");
        let bearer = credential();
        let issued = CredentialState {
            credential: bearer.clone(),
            ..CredentialState::pending(CredentialIdentity::for_resource(&before))
        };
        credentials.publish(&ResourceRef::from(&before), issued);
        assert_eq!(credentials.get(&before).credential, bearer);

        let moved = resource("https://elsewhere.example.com/mcp", "session_id");
        assert!(matches!(
            credentials.get(&moved).credential,
            Credential::Unavailable { .. }
        ));

        let other_cookie = resource("https://tools.example.com/mcp", "theme");
        assert_eq!(
            credentials.get(&other_cookie).credential,
            bearer,
            "cookies have nothing to do with the token"
        );
    }

    #[test]
    fn a_change_is_announced_once_to_its_namespace_only() {
        let changes = Changes::default();
        let credentials = Credentials::new(changes.clone(), mpsc::unbounded_channel().0);
        let (mut here, mut there) = (changes.subscribe("apps"), changes.subscribe("other"));
        here.mark_unchanged();
        there.mark_unchanged();
        let resource = resource("https://tools.example.com/mcp", "session_id");
        let issued = CredentialState {
            credential: credential(),
            ..CredentialState::pending(CredentialIdentity::for_resource(&resource))
        };
        credentials.publish(&ResourceRef::from(&resource), issued.clone());
        assert!(here.has_changed().unwrap());
        here.mark_unchanged();
        credentials.publish(&ResourceRef::from(&resource), issued);
        assert!(!here.has_changed().unwrap(), "the same again is no change");
        assert!(!there.has_changed().unwrap());
    }
}
