//! The real authorization servers, for tests that want the same of each.

use serde_json::{Value, json};

use crate::authority::{self, Certificate};
use crate::registration::{Method, Registration};
use crate::{keycloak, oauth, spring};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Server {
    OidcProvider,
    Keycloak,
    /// Spring Authorization Server.
    Spring,
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
        let spring = spring::is_there().then_some(Self::Spring);
        let java = keycloak.into_iter().chain(spring);
        [Self::OidcProvider].into_iter().chain(java).collect()
    }

    /// Those that run and have the grant jwt-bearer.
    pub fn with_jwt_bearer() -> Vec<Self> {
        let servers = Self::all().into_iter();
        servers.filter(|server| *server != Self::Spring).collect()
    }

    /// Whether it can verify what is signed with this algorithm.
    pub fn knows(self, algorithm: &str) -> bool {
        self != Self::Spring || spring::knows(algorithm)
    }

    /// For names of namespaces and clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::OidcProvider => "oidc-provider",
            Self::Keycloak => "keycloak",
            Self::Spring => "spring",
        }
    }

    pub fn issuer(self) -> String {
        match self {
            Self::OidcProvider => oauth::issuer(),
            Self::Keycloak => keycloak::issuer(),
            Self::Spring => spring::issuer(),
        }
    }

    pub fn token_url(self) -> String {
        match self {
            Self::OidcProvider => format!("{}/token", oauth::issuer()),
            Self::Keycloak => format!("{}/protocol/openid-connect/token", keycloak::issuer()),
            Self::Spring => format!("{}/oauth2/token", spring::issuer()),
        }
    }

    pub async fn register(self, registration: &Registration) {
        match self {
            Self::OidcProvider => oauth::register(registration).await,
            Self::Keycloak => keycloak::register(registration).await,
            Self::Spring => spring::register(registration).await,
        }
    }

    /// What it calls a way to authenticate.
    pub fn name_of(self, method: &Method) -> &'static str {
        match (self, method) {
            (Self::OidcProvider | Self::Spring, Method::SecretBasic(_)) => "client_secret_basic",
            (Self::OidcProvider | Self::Spring, Method::SecretPost(_)) => "client_secret_post",
            (Self::OidcProvider | Self::Spring, Method::PrivateKeyJwt(_) | Method::PublishedKeys { .. }) => {
                "private_key_jwt"
            }
            (Self::OidcProvider | Self::Spring, Method::Tls { .. }) => "tls_client_auth",
            (Self::OidcProvider | Self::Spring, Method::SelfSignedTls { .. }) => {
                "self_signed_tls_client_auth"
            }
            (_, Method::None) => "none",
            // It tells the two apart by what the client is registered for, and refuses the other.
            (Self::Keycloak, Method::SecretBasic(_) | Method::SecretPost(_)) => "client-secret",
            (Self::Keycloak, Method::PrivateKeyJwt(_) | Method::PublishedKeys { .. }) => "client-jwt",
            (Self::Keycloak, Method::Tls { .. } | Method::SelfSignedTls { .. }) => "client-x509",
            (_, Method::Federated { .. }) => "federated-jwt",
        }
    }

    /// What it has granted a client so far, in no certain order.
    pub async fn granted(self, client: &str) -> Vec<Granted> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::OidcProvider | Self::Spring => {
                let requests = self.requests(client).await.into_iter();
                let requests = requests.filter(|request| request["event"] == "issued");
                let granted = requests.map(|request| Granted {
                    method: text(&request["method"]),
                    grant: text(&request["grant"]),
                });
                granted.collect()
            }
            Self::Keycloak => {
                let types = ["CLIENT_LOGIN", "JWT_AUTHORIZATION_GRANT", "TOKEN_EXCHANGE"];
                let events = self.requests(client).await.into_iter();
                let events = events.filter(|event| types.iter().any(|type_| event["type"] == *type_));
                let granted = events.map(|event| Granted {
                    method: text(&event["details"]["client_auth_method"]),
                    grant: text(&event["details"]["grant_type"]),
                });
                granted.collect()
            }
        }
    }

    /// A client certificate with this common name. Spring tells `tls_client_auth` from `self_signed_tls_client_auth` by the
    /// number of certificates that it is shown, and so wants that of the authority too.
    pub fn certificate(self, name: &str) -> Certificate {
        let mut certificate = authority::certificate(name);
        if self == Self::Spring {
            certificate.chain += &authority::bundle();
        }
        certificate
    }

    /// Whether it binds tokens to a certificate that is shown beside another method of client authentication.
    pub fn binds_beside_other_methods(self) -> bool {
        self != Self::Spring
    }

    /// The server's own record of a client's requests.
    async fn requests(self, client: &str) -> Vec<Value> {
        match self {
            Self::OidcProvider => oauth::requests(client).await,
            Self::Keycloak => keycloak::events(client).await,
            Self::Spring => spring::requests(client).await,
        }
    }

    /// Whether it has revoked a token of this client.
    pub async fn revoked(self, client: &str) -> bool {
        match self {
            Self::OidcProvider => {
                let requests = self.requests(client).await;
                requests.iter().any(|request| request["revoked"] == true)
            }
            Self::Keycloak => {
                let events = self.requests(client).await;
                events.iter().any(|event| event["type"] == "REVOKE_GRANT")
            }
            Self::Spring => {
                let requests = self.requests(client).await;
                requests.iter().any(|request| request["event"] == "revoked")
            }
        }
    }

    /// An access token of a user, as a front end would have it, that this client may exchange.
    pub async fn user_token(self, user: &str, client: &str) -> String {
        match self {
            Self::OidcProvider => oauth::user_token(user, client).await,
            Self::Keycloak => keycloak::user_token(user, client).await,
            Self::Spring => spring::user_token(user, client).await,
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
