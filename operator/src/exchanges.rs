//! Tokens of users' own: reconcile says how each resource's are to be had, sync asks for them when a sidecar does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_auth_crds::McpServerAuth;
use mcp_auth_oauth::{Client, Clock, Error, Policy, Token, UserTokens};
use secrecy::SecretString;

use crate::credentials::Binding;
use crate::key::Key;

/// Exchanges users' tokens at one authorization server, and keeps what it got.
pub struct Exchanger {
    client: Mutex<Client>,
    users: UserTokens,
}

impl Exchanger {
    pub fn new(client: Client, policy: Policy, clock: Clock) -> Self {
        Self {
            client: Mutex::new(client),
            users: UserTokens::new(policy, clock),
        }
    }

    /// Asks in a changed way from now on. The tokens there are serve until they expire.
    pub fn change(&self, client: Client) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        self.users.reset_failures();
    }

    /// The token for this subject. `refused`: the MCP server did not take this one.
    pub async fn token(&self, subject: &SecretString, refused: Option<&str>) -> Result<Arc<Token>, Error> {
        if let Some(id) = refused {
            self.users.report_rejected(subject, id);
        }
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.users
            .get(subject, || {
                let (client, subject) = (client.clone(), subject.clone());
                async move { client.exchange_token(&subject).await }
            })
            .await
    }
}

/// The exchangers in use. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Exchanges(Arc<Mutex<InUse>>);

/// What each exchanger gets tokens for, and the exchanger.
type InUse = HashMap<Key, (Binding, Arc<Exchanger>)>;

impl Exchanges {
    /// `None`: users get no tokens of their own.
    pub fn set(&self, key: &Key, binding: Binding, exchanger: Option<Arc<Exchanger>>) {
        match exchanger {
            Some(exchanger) => drop(self.lock().insert(key.clone(), (binding, exchanger))),
            None => self.withdraw(key),
        }
    }

    pub fn withdraw(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// That of a resource as it is now.
    pub fn of(&self, resource: &McpServerAuth) -> Option<Arc<Exchanger>> {
        let exchanges = self.lock();
        let (binding, exchanger) = exchanges.get(&Key::from(resource))?;
        (*binding == Binding::of(resource)).then(|| exchanger.clone())
    }

    fn lock(&self) -> MutexGuard<'_, InUse> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}
