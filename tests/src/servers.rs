//! The real authorization servers, for tests that want the same of each.

use serde_json::{Value, json};

use crate::registration::{Method, Registration};
use crate::{keycloak, oauth};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Server {
    OidcProvider,
    Keycloak,
}

/// A token request that the server granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    /// How the client authenticated, in the server's own words.
    pub method: String,
    pub grant: String,
}

impl Server {
    /// Those that run.
    pub fn all() -> Vec<Self> {
        let keycloak = keycloak::is_there().then_some(Self::Keycloak);
        [Self::OidcProvider].into_iter().chain(keycloak).collect()
    }

    /// For names of namespaces and clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::OidcProvider => "oidc-provider",
            Self::Keycloak => "keycloak",
        }
    }

    pub fn issuer(self) -> String {
        match self {
            Self::OidcProvider => oauth::issuer(),
            Self::Keycloak => keycloak::issuer(),
        }
    }

    pub fn token_url(self) -> String {
        match self {
            Self::OidcProvider => format!("{}/token", oauth::issuer()),
            Self::Keycloak => format!("{}/protocol/openid-connect/token", keycloak::issuer()),
        }
    }

    pub async fn register(self, registration: &Registration) {
        match self {
            Self::OidcProvider => oauth::register(registration).await,
            Self::Keycloak => keycloak::register(registration).await,
        }
    }

    /// What it calls a way to authenticate.
    pub fn name_of(self, method: &Method) -> &'static str {
        match (self, method) {
            (Self::OidcProvider, Method::SecretBasic(_)) => "client_secret_basic",
            (Self::OidcProvider, Method::SecretPost(_)) => "client_secret_post",
            (Self::OidcProvider, Method::PrivateKeyJwt(_)) => "private_key_jwt",
            (Self::OidcProvider, Method::Tls { .. }) => "tls_client_auth",
            (Self::OidcProvider, Method::SelfSignedTls { .. }) => "self_signed_tls_client_auth",
            (_, Method::None) => "none",
            // It tells the two apart by what the client is registered for, and refuses the other.
            (Self::Keycloak, Method::SecretBasic(_) | Method::SecretPost(_)) => "client-secret",
            (Self::Keycloak, Method::PrivateKeyJwt(_)) => "client-jwt",
            (Self::Keycloak, Method::Tls { .. } | Method::SelfSignedTls { .. }) => "client-x509",
            (_, Method::Workload { .. }) => "federated-jwt",
        }
    }

    /// What it has granted a client so far, in no certain order.
    pub async fn granted(self, client: &str) -> Vec<Granted> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::OidcProvider => {
                let requests = oauth::requests(client).await.into_iter();
                let requests = requests.filter(|request| request["event"] == "issued");
                let granted = requests.map(|request| Granted {
                    method: text(&request["method"]),
                    grant: text(&request["grant"]),
                });
                granted.collect()
            }
            Self::Keycloak => {
                let types = ["CLIENT_LOGIN", "JWT_AUTHORIZATION_GRANT", "TOKEN_EXCHANGE"];
                let events = keycloak::events(client).await.into_iter();
                let events = events.filter(|event| types.iter().any(|type_| event["type"] == *type_));
                let granted = events.map(|event| Granted {
                    method: text(&event["details"]["client_auth_method"]),
                    grant: text(&event["details"]["grant_type"]),
                });
                granted.collect()
            }
        }
    }

    /// Whether it has revoked a token of this client.
    pub async fn revoked(self, client: &str) -> bool {
        match self {
            Self::OidcProvider => {
                let requests = oauth::requests(client).await;
                requests.iter().any(|request| request["revoked"] == true)
            }
            Self::Keycloak => {
                let events = keycloak::events(client).await;
                events.iter().any(|event| event["type"] == "REVOKE_GRANT")
            }
        }
    }

    /// An access token of a user, as a front end would have it, that this client may exchange.
    pub async fn user_token(self, user: &str, client: &str) -> String {
        match self {
            Self::OidcProvider => oauth::user_token(user, client).await,
            Self::Keycloak => keycloak::user_token(user, client).await,
        }
    }

    /// The oauth2 block that finds it by its issuer, on this machine and with its own authority.
    pub fn oauth2(self, client: &str, authentication: Value) -> Value {
        json!({"oauth2": {
            "issuer": self.issuer(),
            "allowPrivateAddresses": true,
            "caBundle": {"configMapKeyRef": {"name": "authority", "key": "ca.crt"}},
            "clientId": client,
            "clientAuthentication": authentication,
        }})
    }
}
