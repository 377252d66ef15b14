//! Tokens of users' own by token exchange (RFC 8693): token sources publish the exchanger, and sync asks it
//! when a sidecar does.

use std::sync::Arc;

use mcp_auth_oauth::{Client, Clock, Error, Policy, Token, UserTokens};
use parking_lot::Mutex;
use secrecy::SecretString;

/// Exchanges users' tokens at one authorization server, and keeps what it got.
pub struct UserTokenExchanger {
    client: Mutex<Client>,
    users: UserTokens,
}

impl UserTokenExchanger {
    pub fn new(client: Client, policy: Policy, clock: Clock) -> Self {
        Self {
            client: Mutex::new(client),
            users: UserTokens::new(policy, clock),
        }
    }

    /// Asks in a changed way from now on. The tokens there are serve until they expire.
    pub fn change(&self, client: Client) {
        *self.client.lock() = client;
        self.users.reset_failures();
    }

    /// The token for this subject. `refused`: the MCP server did not take this one.
    pub async fn token(&self, subject: &SecretString, refused: Option<&str>) -> Result<Arc<Token>, Error> {
        if let Some(id) = refused {
            self.users.report_rejected(subject, id);
        }
        let client = self.client.lock().clone();
        self.users
            .get(subject, || {
                let (client, subject) = (client.clone(), subject.clone());
                async move { client.exchange_token(&subject).await }
            })
            .await
    }
}
