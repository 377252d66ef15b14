//! Preflight: what an authorization server's metadata say of a registration before the first request is made. It is told and
//! never enforced: metadata are often incomplete, and one request that is refused says more. Where they are silent nothing is
//! said, but for the default that RFC 8414 gives the silence.

use std::fmt;

use oauth2::Scope;

use crate::discovery::metadata::Supported;
use crate::{
    ClientAssertionType, ClientAuthentication, ExchangeProfile, Grant, Registration, ServerMetadata,
    TokenType,
};

/// RFC 9449 section 4.2; proofs are signed by this one.
const DPOP_ALGORITHM: &str = "ES256";

/// Whose tokens are requested.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenUse {
    Service,
    ServiceAndUsers,
    /// Users' own are exchanged, and none is requested for the service.
    Users,
}

/// What will most likely fail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PreflightProblem {
    Grant {
        grant: &'static str,
        listed: Vec<String>,
    },
    Method {
        method: &'static str,
        listed: Vec<String>,
    },
    /// The metadata name no methods, which has a meaning (RFC 8414 section 2).
    MethodByDefault { method: &'static str },
    Algorithm {
        algorithm: &'static str,
        listed: Vec<String>,
    },
    /// Scopes that are not among those listed. A server need not list all.
    Scopes { unlisted: Vec<String> },
    /// The algorithms of DPoP proofs are listed, and the one that is used is not.
    Dpop { listed: Vec<String> },
    /// The same of the metadata of the identity provider that grants users' exchanges.
    IdentityProvider(Box<PreflightProblem>),
}

impl PreflightProblem {
    /// Whether the metadata say so, and not their silence. A list of scopes says nothing of those that it leaves out.
    pub fn is_stated(&self) -> bool {
        match self {
            Self::MethodByDefault { .. } | Self::Scopes { .. } => false,
            Self::IdentityProvider(problem) => problem.is_stated(),
            _ => true,
        }
    }

    /// Whether it may be the cause of a failure with this code. Entra, for one, lists none of the scopes that its
    /// applications have, so that only the server's own word makes a scope suspicious.
    pub fn explains(&self, code: &str) -> bool {
        match self {
            Self::Scopes { .. } => code == "invalid_scope",
            // What fails is a request for the service's token, which it has no part in.
            Self::IdentityProvider(_) => false,
            _ => true,
        }
    }
}

impl fmt::Display for PreflightProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant { grant, listed } => write!(
                formatter,
                "grant_types_supported has {}, and not {grant}: allow this client that grant, or use another",
                listed.join(", ")
            ),
            Self::Method { method, listed } => write!(
                formatter,
                "token_endpoint_auth_methods_supported has {}, and not {method}: set \
                 clientAuthentication.method to {}",
                listed.join(", "),
                fields(listed)
            ),
            Self::MethodByDefault { method } => write!(
                formatter,
                "they name no token_endpoint_auth_methods_supported, which means client_secret_basic (RFC 8414 section \
                 2), and {method} is used: if the client is not believed, set clientAuthentication.method to \
                 ClientSecretBasic"
            ),
            Self::Algorithm { algorithm, listed } => write!(
                formatter,
                "token_endpoint_auth_signing_alg_values_supported has {}, and not {algorithm}: set \
                 privateKeyJwt.algorithm, or use another key",
                listed.join(", ")
            ),
            Self::Scopes { unlisted } => write!(
                formatter,
                "scopes_supported does not list {}, which it need not: check scopes",
                unlisted.join(", ")
            ),
            Self::IdentityProvider(problem) => write!(formatter, "at the identity provider: {problem}"),
            Self::Dpop { listed } => write!(
                formatter,
                "dpop_signing_alg_values_supported has {}, and not {DPOP_ALGORITHM}, which proofs are signed by: set \
                 tokenType: Bearer",
                listed.join(", ")
            ),
        }
    }
}

/// What the metadata say of this registration; nothing where all is well or nothing is said.
pub fn check(
    registration: &Registration,
    server: &ServerMetadata,
    token_use: TokenUse,
) -> Vec<PreflightProblem> {
    let supported = &server.supported;
    let mut problems: Vec<_> = grants(registration, token_use)
        .into_iter()
        .filter_map(|grant| {
            let listed = unlisted(&supported.grant_types, |listed| listed == grant)?;
            Some(PreflightProblem::Grant { grant, listed })
        })
        .collect();
    problems.extend(method(registration, supported));
    problems.extend(algorithm(registration, supported));
    problems.extend(scopes(registration, server));
    if registration.token_type == TokenType::DPoP
        && let Some(listed) = unlisted(&supported.dpop_algorithms, |listed| listed == DPOP_ALGORITHM)
    {
        problems.push(PreflightProblem::Dpop { listed });
    }
    problems
}

/// What is listed, where something is and none of it fits.
fn unlisted(listed: &[String], fits: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let is_missing = !listed.is_empty() && !listed.iter().any(|each| fits(each));
    is_missing.then(|| listed.to_vec())
}

/// Names of the grants that will be used.
fn grants(registration: &Registration, token_use: TokenUse) -> Vec<&'static str> {
    const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
    let mut grants = match registration.grant {
        _ if token_use == TokenUse::Users => vec![],
        Grant::ClientCredentials => vec!["client_credentials"],
        Grant::JwtBearer(_) => vec![JWT_BEARER],
        Grant::TokenExchange(_) => vec![TOKEN_EXCHANGE],
        Grant::GitHubApp(_) => vec![],
    };
    if token_use != TokenUse::Service {
        grants.push(match registration.token_exchange.profile {
            ExchangeProfile::TokenExchange => TOKEN_EXCHANGE,
            ExchangeProfile::EntraOnBehalfOf | ExchangeProfile::IdJag => JWT_BEARER,
        });
    }
    grants.dedup();
    grants
}

fn method(registration: &Registration, supported: &Supported) -> Option<PreflightProblem> {
    let (method, alias) = match registration.authentication {
        // Metadata have no name for it yet.
        ClientAuthentication::None | ClientAuthentication::Assertion(_, ClientAssertionType::JwtSpiffe) => {
            return None;
        }
        ClientAuthentication::SecretBasic(_) => ("client_secret_basic", None),
        ClientAuthentication::SecretPost(_) => ("client_secret_post", None),
        ClientAuthentication::PrivateKeyJwt { .. }
        | ClientAuthentication::Assertion(_, ClientAssertionType::JwtBearer) => ("private_key_jwt", None),
        // RFC 8705 section 2.2: the same request, by a certificate without an authority.
        ClientAuthentication::Tls(_) => ("tls_client_auth", Some("self_signed_tls_client_auth")),
    };
    if supported.auth_methods.is_empty() {
        let differs = supported.is_stated && method == "client_secret_post";
        return differs.then_some(PreflightProblem::MethodByDefault { method });
    }
    let fits = |listed: &str| listed == method || Some(listed) == alias;
    let listed = unlisted(&supported.auth_methods, fits)?;
    Some(PreflightProblem::Method { method, listed })
}

fn algorithm(registration: &Registration, supported: &Supported) -> Option<PreflightProblem> {
    let ClientAuthentication::PrivateKeyJwt { key, .. } = &registration.authentication else {
        return None;
    };
    let algorithm = key.algorithm().as_str();
    let listed = unlisted(&supported.auth_algorithms, |listed| listed == algorithm)?;
    Some(PreflightProblem::Algorithm { algorithm, listed })
}

fn scopes(registration: &Registration, server: &ServerMetadata) -> Option<PreflightProblem> {
    let listed = &server.supported.scopes;
    let is_unlisted = |scope: &&Scope| !listed.iter().any(|listed| *listed == ***scope);
    let unlisted = registration.scopes.iter().filter(is_unlisted);
    let unlisted: Vec<String> = unlisted.map(|scope| scope.to_string()).collect();
    (!listed.is_empty() && !unlisted.is_empty()).then_some(PreflightProblem::Scopes { unlisted })
}

/// The values of `clientAuthentication.method` that have these names in metadata.
fn fields(listed: &[String]) -> String {
    let known = [
        ("client_secret_basic", "ClientSecretBasic"),
        ("client_secret_post", "ClientSecretPost"),
        ("private_key_jwt", "PrivateKeyJwt"),
        ("tls_client_auth", "TlsClientAuth"),
        ("self_signed_tls_client_auth", "TlsClientAuth"),
    ];
    let mut fields: Vec<_> = known
        .iter()
        .filter(|(name, _)| listed.iter().any(|listed| listed == name))
        .map(|(_, field)| *field)
        .collect();
    fields.dedup();
    match fields.is_empty() {
        true => "one that it knows; of these the client knows none".to_owned(),
        false => fields.join(" or "),
    }
}
