//! Client registration: how an authorization server knows the client, and what the client requests of it.

mod token_digest;

use std::collections::BTreeMap;

use oauth2::{ClientId, ClientSecret, Scope};
use secrecy::SecretString;

use crate::destinations::Destinations;
use crate::egress_proxy::EgressProxy;
use crate::jose::assertion::{AssertionAudience, Assertions};
use crate::jose::signing_key::SigningKey;
use crate::token_check::TokenCheck;
use crate::token_type::TokenType;
pub use token_digest::TokenDigest;

/// How an authorization server knows this client, and what the client requests of it.
#[derive(Clone, Debug)]
pub struct Registration {
    pub server: ServerLocation,
    /// `None`: not sent, where an assertion names the client.
    pub client_id: Option<ClientId>,
    pub authentication: ClientAuthentication,
    /// A TLS client certificate that is shown besides, by any method: for tokens that are bound to it, and for
    /// gateways that demand one.
    pub certificate: Option<ClientCertificate>,
    pub grant: Grant,
    pub token_type: TokenType,
    /// Of [`Client::exchange_token`].
    pub token_exchange: TokenExchange,
    /// None: the authorization server's default, or what the MCP server's metadata name.
    pub scopes: Vec<Scope>,
    pub audience: Option<String>,
    /// `resource` (RFC 8707). `None`: not sent.
    pub resource: Option<String>,
    /// Further parameters; none that has a field here.
    pub extra_parameters: BTreeMap<String, String>,
    /// The same, with values that are not to be seen.
    pub secret_parameters: BTreeMap<String, SecretString>,
    pub check: TokenCheck,
    pub zero_expires_in: ZeroExpiresIn,
    /// PEM certificates of authorities to trust besides the system's.
    pub ca_bundle: Option<String>,
    /// `None`: every server is reached directly.
    pub egress_proxy: Option<EgressProxy>,
    pub allow_insecure_http: bool,
    /// Whether endpoints that were discovered may be at private addresses.
    pub allow_private_addresses: bool,
    /// Where requests may go whatever the registration says.
    pub destinations: Destinations,
}

/// How the authorization server is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerLocation {
    /// By its endpoints: https, or http if `allow_insecure_http`.
    Endpoints {
        token_url: String,
        /// RFC 7009.
        revocation_url: Option<String>,
    },
    /// By the metadata of this issuer (RFC 8414, OpenID Connect Discovery 1.0).
    Issuer(String),
    /// By the MCP server's challenge and metadata (RFC 9728).
    ProtectedResource {
        /// URL of the MCP server.
        url: String,
        /// PEM certificates of authorities to trust at the MCP server besides the system's.
        ca_bundle: Option<String>,
        /// The issuer found before. Another one is an error: credentials of the one are not shown to the
        /// other.
        known_issuer: Option<String>,
    },
}

/// How the client authenticates.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// Not at all: the grant's assertion says it.
    None,
    /// A secret in the Authorization header (RFC 6749 section 2.3.1).
    SecretBasic(ClientSecrets),
    /// A secret in the form (RFC 6749 section 2.3.1).
    SecretPost(ClientSecrets),
    /// An assertion that this client signs (RFC 7523 section 2.2).
    PrivateKeyJwt {
        key: SigningKey,
        audience: AssertionAudience,
    },
    /// An assertion that another party signs (RFC 7523 section 2.2).
    Assertion(Assertions, ClientAssertionType),
    /// A TLS client certificate (RFC 8705 section 2).
    Tls(ClientCertificate),
}

/// The parameter `client_assertion_type`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientAssertionType {
    /// A JWT (RFC 7523 section 2.2).
    #[default]
    JwtBearer,
    /// A JWT-SVID of SPIFFE (draft-ietf-oauth-spiffe-client-auth).
    JwtSpiffe,
}

impl ClientAssertionType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::JwtBearer => "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            Self::JwtSpiffe => "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
        }
    }
}

/// A client secret, and the one before or after it, which is tried where the first is refused with
/// `invalid_client`.
#[derive(Clone, Debug)]
pub struct ClientSecrets {
    pub first: ClientSecret,
    pub alternate: Option<ClientSecret>,
}

/// The grant type.
#[derive(Clone, Debug)]
pub enum Grant {
    /// RFC 6749 section 4.4.
    ClientCredentials,
    /// An assertion (RFC 7523 section 2.1).
    JwtBearer(Assertions),
    /// A JWT of another issuer's is exchanged (RFC 8693), as workloads have one of their platform.
    TokenExchange(Assertions),
    /// An installation access token of a GitHub App, which is no OAuth2: the token endpoint is GitHub's for it.
    GitHubApp(GitHubApp),
}

/// A GitHub App, and what its tokens are narrowed to.
#[derive(Clone, Debug)]
pub struct GitHubApp {
    pub app_id: i64,
    pub key: SigningKey,
    /// Names without owner. None: all of the installation.
    pub repositories: Vec<String>,
    /// By name: `read`, `write` or `admin`. None: all of the installation.
    pub permissions: BTreeMap<String, String>,
}

/// What `expires_in: 0` says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ZeroExpiresIn {
    /// The token is over already, as RFC 6749 section 5.1 has it.
    #[default]
    Expired,
    /// It has no end, as some servers write that.
    Unlimited,
}

/// Parameters of token exchange (RFC 8693 section 2.1).
#[derive(Clone, Debug)]
pub struct TokenExchange {
    pub profile: ExchangeProfile,
    pub subject_token_type: String,
    /// `None`: not sent.
    pub requested_token_type: Option<String>,
    /// Instead of those of the registration.
    pub scopes: Option<Vec<Scope>>,
    /// Instead of that of the registration. With [`ExchangeProfile::IdJag`] it names the authorization server that
    /// the grant is for; `None`: its issuer.
    pub audience: Option<String>,
    /// Instead of those of the registration.
    pub extra_parameters: Option<BTreeMap<String, String>>,
    /// Of [`ExchangeProfile::IdJag`]: how the identity provider knows this client, and where it is.
    pub identity_provider: Option<Box<Registration>>,
}

/// PEM: the chain with the leaf first, and its key.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    pub chain: String,
    pub key: SecretString,
}

impl Registration {
    /// The least that a registration needs.
    pub fn new(
        token_url: impl Into<String>,
        client_id: impl Into<String>,
        authentication: ClientAuthentication,
    ) -> Self {
        Self {
            server: ServerLocation::Endpoints {
                token_url: token_url.into(),
                revocation_url: None,
            },
            client_id: Some(ClientId::new(client_id.into())),
            authentication,
            certificate: None,
            grant: Grant::ClientCredentials,
            token_type: TokenType::Bearer,
            token_exchange: TokenExchange::default(),
            check: TokenCheck::default(),
            zero_expires_in: ZeroExpiresIn::default(),
            allow_private_addresses: false,
            destinations: Destinations::default(),
            scopes: Vec::new(),
            audience: None,
            resource: None,
            extra_parameters: BTreeMap::new(),
            secret_parameters: BTreeMap::new(),
            ca_bundle: None,
            egress_proxy: None,
            allow_insecure_http: false,
        }
    }
}

/// How a user's token is exchanged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ExchangeProfile {
    /// RFC 8693.
    #[default]
    TokenExchange,
    /// The on-behalf-of flow of Microsoft Entra: the grant jwt-bearer with the user's token as the assertion, and
    /// `requested_token_use`.
    EntraOnBehalfOf,
    /// By an identity assertion authorization grant (draft-ietf-oauth-identity-assertion-authz-grant): RFC 8693 at
    /// [`TokenExchange::identity_provider`], and what that issues is the grant jwt-bearer at the authorization server.
    IdJag,
}

/// RFC 8693 section 3.
pub const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// RFC 8693 section 3.
pub const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";
/// draft-ietf-oauth-identity-assertion-authz-grant section 4.3.
pub(crate) const ID_JAG_TYPE: &str = "urn:ietf:params:oauth:token-type:id-jag";

impl Default for TokenExchange {
    fn default() -> Self {
        Self {
            profile: ExchangeProfile::default(),
            subject_token_type: ACCESS_TOKEN_TYPE.into(),
            requested_token_type: None,
            scopes: None,
            audience: None,
            extra_parameters: None,
            identity_provider: None,
        }
    }
}

impl From<&str> for ClientSecrets {
    fn from(secret: &str) -> Self {
        Self {
            first: ClientSecret::new(secret.to_owned()),
            alternate: None,
        }
    }
}
