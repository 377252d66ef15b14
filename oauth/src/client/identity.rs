//! Client identity: which client of which authorization server, as the server counts what it issues.

use url::Url;

use super::Client;
use crate::{Assertions, Grant, ServerMetadata};

/// Equal for registrations of one client at one token endpoint, however each of them finds and asks it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClientIdentity {
    token_endpoint: Url,
    client: String,
}

impl ClientIdentity {
    /// Of a client that states both. `None`: it is no URL.
    pub fn stated(token_endpoint: &str, client_id: &str) -> Option<Self> {
        Some(Self {
            token_endpoint: Url::parse(token_endpoint).ok()?,
            client: client_id.to_owned(),
        })
    }
}

impl Client {
    /// `server` is what was discovered, where it was. `None`: the server is not known yet, or the client has no name there.
    pub fn identity(&self, server: Option<&ServerMetadata>) -> Option<ClientIdentity> {
        let token_endpoint = match &self.stated {
            Some(endpoints) => endpoints.token_for(false).clone(),
            None => Url::parse(&server?.token_endpoint).ok()?,
        };
        Some(ClientIdentity {
            token_endpoint,
            client: self.name()?,
        })
    }

    /// As the server knows it. `None`: the client has no name there, so that no other registration can be the same client.
    pub fn name(&self) -> Option<String> {
        Some(match (&self.registration.grant, &self.registration.client_id) {
            (Grant::GitHubApp(app), _) => format!("GitHub App {}", app.app_id),
            (_, Some(client_id)) => client_id.to_string(),
            // A service account of Google's, for one.
            (Grant::JwtBearer(Assertions::Signed(signer)), None) => signer.issuer.clone(),
            (Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::TokenExchange(_), None) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientAuthentication, Registration};

    fn identity(token_url: &str, client_id: &str) -> Option<ClientIdentity> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registration = Registration {
            scopes: vec![oauth2::Scope::new(client_id.repeat(2))],
            ..Registration::new(token_url, client_id, ClientAuthentication::None)
        };
        Client::new(registration).unwrap().identity(None)
    }

    #[test]
    fn one_client_at_one_token_endpoint_is_one_whatever_it_asks_for() {
        let one = identity("https://login.example.com/token", "litellm");
        assert!(one.is_some());
        assert_eq!(one, identity("https://LOGIN.example.com:443/token", "litellm"));
        assert_ne!(one, identity("https://login.example.com/other/token", "litellm"));
        assert_ne!(one, identity("https://login.example.com/token", "other"));
        assert_eq!(
            one,
            ClientIdentity::stated("https://login.example.com/token", "litellm")
        );
        assert_eq!(ClientIdentity::stated("/token", "litellm"), None);
    }
}
