//! A client as it is registered at an authorization server, in words that all real servers understand.

use crate::keys::Key;

#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    pub method: Method,
    pub grant: Grant,
    /// URL of the MCP server that its tokens are for. Keycloak has to know it, the others take it from the request.
    pub resource: String,
    pub dpop_bound: bool,
    pub certificate_bound: bool,
}

#[derive(Clone, Debug)]
pub enum Method {
    SecretBasic(String),
    SecretPost(String),
    PrivateKeyJwt(Key),
    /// The same by keys that the client publishes (RFC 7591 section 2, `jwks_uri`).
    PublishedKeys {
        jwks_uri: String,
        algorithm: &'static str,
    },
    /// RFC 8705 section 2.1: the certificate's subject, in the form of RFC 4514.
    Tls {
        subject: String,
    },
    /// RFC 8705 section 2.2, in PEM.
    SelfSignedTls {
        certificate: String,
    },
    /// An assertion of another issuer, which Keycloak knows as an identity provider of this alias: its subject.
    Federated {
        identity_provider: String,
        subject: String,
    },
    None,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grant {
    ClientCredentials,
    JwtBearer,
    TokenExchange,
}

impl Registration {
    /// A client for the MCP server of `resource::resource("tools", ...)`.
    pub fn new(id: &str, method: Method) -> Self {
        Self {
            id: id.to_owned(),
            method,
            grant: Grant::ClientCredentials,
            resource: "https://tools.example.com/mcp".to_owned(),
            dpop_bound: false,
            certificate_bound: false,
        }
    }
}

impl Grant {
    /// As the token request names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
}
