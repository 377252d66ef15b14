//! How the token of a resource is to be had: a pure function of the spec and of what its references lead to.

use mcp_auth_crds::{
    ClientAuthenticationMethod, McpServerAuthSpec, OAuth2, SignatureAlgorithm, TokenCheckMode, TokenType,
    WorkloadAssertion, reasons,
};
use mcp_auth_oauth::{
    self as oauth, Algorithm, Assertions, ClientAuthentication, ClientCertificate, ClientId, ClientSecret,
    ClientSecrets, Grant, Policy, RefreshBefore, Registration, Scope, ServerLocation, SigningKey, TokenCheck,
    TokenExchange,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::resolve::{Blocked, resolve, resolve_word};
use crate::references::{Lookup, Reference, fields};

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum Want {
    OAuth2(Box<Asking>),
    /// It is in a Secret.
    Given(SecretString),
}

/// How an authorization server is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    pub registration: Registration,
    pub policy: Policy,
    /// Equal where a token source would ask in the same way.
    pub fingerprint: Fingerprint,
    /// Whether users get tokens of their own.
    pub exchanges: bool,
    pub revoke_on_deletion: bool,
    pub step_up: bool,
}

/// A digest of everything that a registration was made of, secrets included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint([u8; 32]);

/// The source of the token, and what the sidecar needs besides it to trust and to be trusted by the MCP server.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: Want,
    pub server_ca: Option<String>,
    pub client_certificate: Option<ClientCertificate>,
}

/// What is known besides the spec.
pub struct Known<'a, W> {
    /// The references of the spec, each with what was known of it when it was looked at. Once: an object that changes
    /// between two looks would be asked with in one state and remembered in the other, and the change be lost.
    pub references: &'a [(Reference, Lookup)],
    /// The operator's identity for this audience, where the resource's namespace may act as the operator.
    pub workload: W,
    /// The issuer that was discovered for this server before.
    pub known_issuer: Option<String>,
}

impl<W> Known<'_, W>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    fn find(&self, field: &str) -> Option<&(Reference, Lookup)> {
        self.references
            .iter()
            .find(|(reference, _)| reference.field == field)
    }

    /// Any text, such as PEM.
    fn text(&self, field: &str) -> Result<Option<SecretString>, Blocked> {
        self.find(field)
            .map(|(reference, found)| resolve(reference, found))
            .transpose()
    }

    /// What goes into a header or a form as one word.
    fn word(&self, field: &str) -> Result<Option<SecretString>, Blocked> {
        self.find(field)
            .map(|(reference, found)| resolve_word(reference, found))
            .transpose()
    }

    fn pem(&self, field: &str) -> Result<Option<String>, Blocked> {
        Ok(self.text(field)?.map(|pem| pem.expose_secret().to_owned()))
    }

    fn pair(&self, certificate: &str, key: &str) -> Result<Option<ClientCertificate>, Blocked> {
        Ok(match (self.pem(certificate)?, self.text(key)?) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain, key }),
            _ => None,
        })
    }
}

pub fn want<W>(spec: &McpServerAuthSpec, known: &Known<'_, W>) -> Result<Wanted, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    let server_ca = known.pem(fields::SERVER_CA)?;
    let client_certificate = known.pair(fields::SERVER_CERTIFICATE, fields::SERVER_KEY)?;
    let source = match known.word(fields::BEARER_TOKEN)? {
        Some(token) => Want::Given(token),
        None => {
            let oauth2 = spec
                .oauth2
                .as_ref()
                .ok_or_else(|| invalid("spec has neither oauth2 nor bearerToken".into()))?;
            Want::OAuth2(Box::new(asking(spec, oauth2, server_ca.clone(), known)?))
        }
    };
    Ok(Wanted {
        source,
        server_ca,
        client_certificate,
    })
}

fn asking<W>(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    server_ca: Option<String>,
    known: &Known<'_, W>,
) -> Result<Asking, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    let ca_bundle = known.pem(fields::TOKEN_ENDPOINT_CA)?;
    let client_id = match known.word(fields::CLIENT_ID)? {
        Some(id) => Some(id.expose_secret().to_owned()),
        None => oauth2.client_id.clone(),
    };
    let client_id = client_id.map(ClientId::new);
    let resource = oauth2.resource.clone().unwrap_or_else(|| spec.server.url.clone());
    let refresh_before = oauth2.refresh_before.parse::<RefreshBefore>();
    let refresh_before =
        refresh_before.map_err(|error| invalid(format!("spec.oauth2.refreshBefore: {error}")))?;
    let registration = Registration {
        server: location(spec, oauth2, server_ca, known.known_issuer.clone()),
        client_id,
        authentication: authentication(oauth2, known)?,
        grant: grant(oauth2, known)?,
        token_type: match oauth2.token_type {
            TokenType::Bearer => oauth::TokenType::Bearer,
            TokenType::DPoP => oauth::TokenType::DPoP,
        },
        token_exchange: oauth2
            .token_exchange
            .as_ref()
            .map_or_else(TokenExchange::default, |exchange| TokenExchange {
                subject_token_type: exchange.subject_token_type.clone(),
                requested_token_type: exchange.requested_token_type.clone(),
            }),
        scopes: oauth2.scopes.iter().cloned().map(Scope::new).collect(),
        audience: oauth2.audience.clone(),
        resource: Some(resource).filter(|resource| !resource.is_empty()),
        extra_parameters: oauth2.extra_parameters.clone(),
        check: TokenCheck {
            mode: match oauth2.token_check.mode {
                TokenCheckMode::Enforce => oauth::TokenCheckMode::Enforce,
                TokenCheckMode::Report => oauth::TokenCheckMode::Report,
                TokenCheckMode::Off => oauth::TokenCheckMode::Off,
            },
            accepted_audiences: oauth2.token_check.accepted_audiences.clone(),
        },
        ca_bundle,
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
    };
    Ok(Asking {
        registration,
        policy: Policy {
            refresh_before,
            ..Policy::default()
        },
        fingerprint: fingerprint(spec, oauth2, known)?,
        exchanges: oauth2.token_exchange.is_some(),
        revoke_on_deletion: oauth2.revoke_on_deletion,
        step_up: oauth2.step_up,
    })
}

fn location(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    server_ca: Option<String>,
    known_issuer: Option<String>,
) -> ServerLocation {
    match (&oauth2.token_url, &oauth2.issuer) {
        (Some(token_url), _) => ServerLocation::Endpoints {
            token_url: token_url.clone(),
            revocation_url: oauth2.revocation_url.clone(),
        },
        (None, Some(issuer)) => ServerLocation::Issuer(issuer.clone()),
        (None, None) => ServerLocation::ProtectedResource {
            url: spec.server.url.clone(),
            ca_bundle: server_ca,
            known_issuer,
        },
    }
}

fn authentication<W>(oauth2: &OAuth2, known: &Known<'_, W>) -> Result<ClientAuthentication, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    let authentication = &oauth2.client_authentication;
    let secrets = || -> Result<ClientSecrets, Blocked> {
        Ok(ClientSecrets {
            first: known
                .word(fields::CLIENT_SECRET)?
                .map(client_secret)
                .ok_or_else(|| unset(fields::CLIENT_SECRET))?,
            alternate: known
                .word(fields::ALTERNATE_SECRET)
                .ok()
                .flatten()
                .map(client_secret),
        })
    };
    Ok(match authentication.method {
        ClientAuthenticationMethod::None => ClientAuthentication::None,
        ClientAuthenticationMethod::ClientSecretBasic => ClientAuthentication::SecretBasic(secrets()?),
        ClientAuthenticationMethod::ClientSecretPost => ClientAuthentication::SecretPost(secrets()?),
        ClientAuthenticationMethod::PrivateKeyJwt => {
            let jwt = authentication.private_key_jwt.as_ref();
            let jwt = jwt.ok_or_else(|| unset("spec.oauth2.clientAuthentication.privateKeyJwt"))?;
            let text = known.text(fields::PRIVATE_KEY)?;
            let text = text.ok_or_else(|| unset(fields::PRIVATE_KEY))?;
            let algorithm = jwt.algorithm.map(algorithm);
            let key = SigningKey::parse(text.expose_secret(), algorithm, jwt.key_id.clone());
            ClientAuthentication::PrivateKeyJwt {
                key: key.map_err(|error| {
                    let message = format!(
                        "{}: {}",
                        named(known.find(fields::PRIVATE_KEY).map(|(reference, _)| reference)),
                        error.message()
                    );
                    Blocked::new(reasons::SECRET_INVALID, message)
                })?,
                audience: jwt.audience.clone(),
            }
        }
        ClientAuthenticationMethod::TlsClientAuth => {
            let pair = known.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?;
            ClientAuthentication::Tls(pair.ok_or_else(|| unset(fields::CERTIFICATE))?)
        }
        ClientAuthenticationMethod::WorkloadIdentity => match workload_assertion(oauth2) {
            WorkloadAssertion::ClientAssertion => ClientAuthentication::Assertion(workload(oauth2, known)?),
            WorkloadAssertion::JwtBearer => ClientAuthentication::None,
        },
    })
}

fn client_secret(word: SecretString) -> ClientSecret {
    ClientSecret::new(word.expose_secret().to_owned())
}

fn grant<W>(oauth2: &OAuth2, known: &Known<'_, W>) -> Result<Grant, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    if let Some(assertion) = known.word(fields::ASSERTION)? {
        return Ok(Grant::JwtBearer(Assertions::Given(assertion)));
    }
    let by_workload = oauth2.client_authentication.method == ClientAuthenticationMethod::WorkloadIdentity
        && workload_assertion(oauth2) == WorkloadAssertion::JwtBearer;
    Ok(match by_workload {
        true => Grant::JwtBearer(workload(oauth2, known)?),
        false => Grant::ClientCredentials,
    })
}

fn workload_assertion(oauth2: &OAuth2) -> WorkloadAssertion {
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    workload.map(|workload| workload.assertion).unwrap_or_default()
}

fn workload<W>(oauth2: &OAuth2, known: &Known<'_, W>) -> Result<Assertions, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    (known.workload)(workload.and_then(|workload| workload.audience.clone())).ok_or_else(|| {
        let message = "spec.oauth2.clientAuthentication.method WorkloadIdentity: this namespace may not act as the \
                       operator: whoever installed mcp-auth can add it to workloadIdentity.namespaces";
        Blocked::new(reasons::FORBIDDEN, message)
    })
}

fn algorithm(algorithm: SignatureAlgorithm) -> Algorithm {
    match algorithm {
        SignatureAlgorithm::Rs256 => Algorithm::Rs256,
        SignatureAlgorithm::Ps256 => Algorithm::Ps256,
        SignatureAlgorithm::Es256 => Algorithm::Es256,
        SignatureAlgorithm::EdDsa => Algorithm::EdDsa,
    }
}

/// What a token request depends on: the server, all of `oauth2` but when and how long its token is kept, and the
/// values of the references, but for the certificate that only the MCP server is shown. The issuer that was discovered is not among it: it comes of the same registration.
fn fingerprint<W>(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    known: &Known<'_, W>,
) -> Result<Fingerprint, Blocked>
where
    W: Fn(Option<String>) -> Option<Assertions>,
{
    let mut oauth2 = oauth2.clone();
    oauth2.refresh_before = String::new();
    oauth2.revoke_on_deletion = false;
    oauth2.step_up = false;
    let parts = (&spec.server.url, oauth2);
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(&parts).expect("a spec is plain values"));
    let of_server = [fields::SERVER_CERTIFICATE, fields::SERVER_KEY];
    let references = known.references.iter();
    for (reference, found) in references.filter(|(reference, _)| !of_server.contains(&reference.field)) {
        let value = match resolve(reference, found) {
            // The second of two secrets may come and go.
            Err(_) if reference.field == fields::ALTERNATE_SECRET => SecretString::default(),
            value => value?,
        };
        let value = value.expose_secret().as_bytes();
        digest.update(reference.field);
        digest.update(value.len().to_be_bytes());
        digest.update(value);
    }
    Ok(Fingerprint(digest.finalize().into()))
}

fn invalid(message: String) -> Blocked {
    Blocked::new(reasons::INVALID_SPEC, message)
}

fn unset(field: &str) -> Blocked {
    invalid(format!("{field} is not set"))
}

/// A key of a Secret, as a message begins with it.
fn named(reference: Option<&Reference>) -> String {
    match reference {
        Some(Reference { field, name, key, .. }) => {
            format!("key {key:?} of Secret {name}, named by {field}")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
