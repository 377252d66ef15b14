//! The desired token source of a resource: a pure function of the spec and of what its references lead to.

mod signing;

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_auth_crds::{
    AuditLevel, ClientAuthenticationMethod, EgressProxy, ExchangeProfile, McpServerAuthSpec, OAuth2,
    TokenCheckMode, TokenType, WorkloadAssertion, WorkloadIdentity, ZeroExpiresIn,
};
use mcp_auth_oauth::{
    self as oauth, Assertions, ClientAuthentication, ClientCertificate, ClientId, ClientSecret,
    ClientSecrets, GivenAssertion, Grant, Limits, Policy, ProxyCredentials, RefreshBefore, Registration,
    Scope, ServerLocation, TimeSpan, TokenCheck, TokenExchange,
};
use mcp_auth_protocol::sync;
use secrecy::{ExposeSecret, SecretString};

use crate::administrator_policy::AdministratorPolicy;
use crate::credential_identity::RequestDigest;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::{Lookup, Reference, fields, resolve_printable, resolve_reference};
use crate::store::ServerTls;
use crate::token_sources::{ClientConfiguration, Desired, DesiredSource, StepUpPolicy};

/// Longest time that passes before a token request is sent: discovery (30 s), a turn at the server (20 s), and what
/// lies between.
const PREPARATION_TIMEOUT: Duration = Duration::from_secs(55);

/// What is known besides the spec.
pub struct Inputs<'a, W> {
    /// The references of the spec, each with what was known of it when it was looked at. Once: an object that
    /// changes between two looks would be used in one state and remembered in the other, and the change
    /// be lost.
    pub references: &'a [(Reference, Lookup)],
    /// Assertions of a ServiceAccount of the resource's namespace; nothing where there are none.
    pub workload: W,
    /// The issuer that was discovered for this server before.
    pub known_issuer: Option<String>,
    /// What whoever runs this program allows.
    pub policy: &'a AdministratorPolicy,
    /// The operator's own egress proxy, for resources that name none.
    pub egress_proxy: Option<oauth::EgressProxy>,
}

impl<W> Inputs<'_, W>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    fn find(&self, field: &str) -> Option<&(Reference, Lookup)> {
        self.references
            .iter()
            .find(|(reference, _)| reference.field == field)
    }

    /// Any text, such as PEM.
    fn text(&self, field: &str) -> Result<Option<SecretString>, NotServedError> {
        self.find(field)
            .map(|(reference, lookup)| resolve_reference(reference, lookup))
            .transpose()
    }

    /// A value that goes into a header or a form: printable ASCII.
    fn printable(&self, field: &str) -> Result<Option<SecretString>, NotServedError> {
        self.find(field)
            .map(|(reference, lookup)| resolve_printable(reference, lookup))
            .transpose()
    }

    fn pem(&self, field: &str) -> Result<Option<String>, NotServedError> {
        Ok(self.text(field)?.map(|pem| pem.expose_secret().to_owned()))
    }

    fn pair(&self, certificate: &str, key: &str) -> Result<Option<ClientCertificate>, NotServedError> {
        Ok(match (self.pem(certificate)?, self.text(key)?) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain, key }),
            _ => None,
        })
    }
}

pub fn desired<W>(spec: &McpServerAuthSpec, inputs: &Inputs<'_, W>) -> Result<Desired, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    inputs.policy.check(spec)?;
    let ca_bundle = inputs.pem(fields::SERVER_CA)?;
    let shown = inputs.pair(fields::SERVER_CERTIFICATE, fields::SERVER_KEY)?;
    let source = match inputs.printable(fields::BEARER_TOKEN)? {
        Some(token) => DesiredSource::Secret(token),
        None => {
            let oauth2 = spec
                .oauth2
                .as_ref()
                .ok_or_else(|| invalid("spec has neither oauth2 nor bearerToken".into()))?;
            DesiredSource::OAuth2(Box::new(client_configuration(
                spec,
                oauth2,
                ca_bundle.clone(),
                inputs,
            )?))
        }
    };
    Ok(Desired {
        source,
        tls: ServerTls {
            ca_bundle,
            client_certificate: shown.map(|pair| sync::ClientCertificate {
                chain: pair.chain,
                key: pair.key,
            }),
        },
        audit_keys: audit_keys(spec, inputs)?,
    })
}

/// Where the keys are that users' tokens are verified by.
fn audit_keys<W>(
    spec: &McpServerAuthSpec,
    inputs: &Inputs<'_, W>,
) -> Result<Option<oauth::KeySetLocation>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let audits = spec.audit.level != AuditLevel::Off;
    let jwks = spec.audit.user.as_ref().and_then(|user| user.jwks.as_ref());
    let Some(jwks) = jwks.filter(|_| audits) else {
        return Ok(None);
    };
    Ok(Some(oauth::KeySetLocation {
        issuer: jwks.issuer.clone(),
        url: jwks.url.clone(),
        ca_bundle: inputs.pem(fields::TOKEN_ENDPOINT_CA)?,
        egress_proxy: match &spec.egress_proxy {
            Some(stated) => Some(egress_proxy(stated, inputs)?),
            None => inputs.egress_proxy.clone(),
        },
        allow_insecure_http: jwks.allow_insecure_http,
        allow_private_addresses: spec
            .oauth2
            .as_ref()
            .is_some_and(|oauth2| oauth2.allow_private_addresses),
        destinations: inputs.policy.authorization_servers.clone(),
    }))
}

fn client_configuration<W>(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    server_ca: Option<String>,
    inputs: &Inputs<'_, W>,
) -> Result<ClientConfiguration, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let ca_bundle = inputs.pem(fields::TOKEN_ENDPOINT_CA)?;
    let client_id = client_id(oauth2, inputs)?.map(ClientId::new);
    let resource = oauth2.resource.clone().unwrap_or_else(|| spec.server.url.clone());
    let refresh_before = oauth2.refresh_before.parse::<RefreshBefore>();
    let refresh_before =
        refresh_before.map_err(|error| invalid(format!("spec.oauth2.refreshBefore: {error}")))?;
    let assumed_lifetime = oauth2.assumed_lifetime.parse::<TimeSpan>();
    let TimeSpan(assumed_lifetime) =
        assumed_lifetime.map_err(|error| invalid(format!("spec.oauth2.assumedLifetime {error}")))?;
    let request_timeout = oauth2.request_timeout.parse::<TimeSpan>();
    let TimeSpan(request_timeout) =
        request_timeout.map_err(|error| invalid(format!("spec.oauth2.requestTimeout {error}")))?;
    let registration = Registration {
        server: location(spec, oauth2, server_ca, inputs.known_issuer.clone()),
        client_id,
        authentication: authentication(oauth2, inputs)?,
        certificate: inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?,
        grant: grant(oauth2, inputs)?,
        token_type: match oauth2.token_type {
            TokenType::Bearer => oauth::TokenType::Bearer,
            TokenType::DPoP => oauth::TokenType::DPoP,
        },
        token_exchange: oauth2
            .token_exchange
            .as_ref()
            .map_or_else(TokenExchange::default, |exchange| TokenExchange {
                profile: match exchange.profile {
                    ExchangeProfile::Rfc8693 => oauth::ExchangeProfile::TokenExchange,
                    ExchangeProfile::EntraObo => oauth::ExchangeProfile::EntraOnBehalfOf,
                },
                subject_token_type: exchange.subject_token_type.clone(),
                requested_token_type: exchange.requested_token_type.clone(),
            }),
        scopes: oauth2.scopes.iter().cloned().map(Scope::new).collect(),
        audience: oauth2.audience.clone(),
        resource: Some(resource).filter(|resource| !resource.is_empty()),
        extra_parameters: oauth2.extra_parameters.clone(),
        secret_parameters: secret_parameters(oauth2, inputs)?,
        check: TokenCheck {
            mode: match oauth2.token_check.mode {
                TokenCheckMode::Enforce => oauth::TokenCheckMode::Enforce,
                TokenCheckMode::Report => oauth::TokenCheckMode::Report,
                TokenCheckMode::Off => oauth::TokenCheckMode::Off,
            },
            accepted_audiences: oauth2.token_check.accepted_audiences.clone(),
            accepted_issuers: oauth2.token_check.accepted_issuers.clone(),
        },
        zero_expires_in: match oauth2.zero_expires_in {
            ZeroExpiresIn::Expired => oauth::ZeroExpiresIn::Expired,
            ZeroExpiresIn::Unlimited => oauth::ZeroExpiresIn::Unlimited,
        },
        ca_bundle,
        egress_proxy: match &spec.egress_proxy {
            Some(stated) => Some(egress_proxy(stated, inputs)?),
            None => inputs.egress_proxy.clone(),
        },
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
        destinations: inputs.policy.authorization_servers.clone(),
    };
    Ok(ClientConfiguration {
        registration,
        policy: Policy {
            refresh_before,
            assumed_lifetime,
            deadline: PREPARATION_TIMEOUT + request_timeout,
            ..Policy::default()
        },
        limits: Limits {
            deadline: request_timeout,
            connect: Limits::default().connect.min(request_timeout),
            ..Limits::default()
        },
        request_digest: request_digest(spec, oauth2, inputs)?,
        exchanges: oauth2.token_exchange.is_some(),
        revoke_on_deletion: oauth2.revoke_on_deletion,
        step_up: match oauth2.step_up {
            false => StepUpPolicy::Off,
            true => StepUpPolicy::Allowed {
                allowed: oauth2.step_up_allowed_scopes.clone(),
                registered: oauth2.scopes.clone(),
            },
        },
    })
}

fn client_id<W>(oauth2: &OAuth2, inputs: &Inputs<'_, W>) -> Result<Option<String>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    Ok(match inputs.printable(fields::CLIENT_ID)? {
        Some(id) => Some(id.expose_secret().to_owned()),
        None => oauth2.client_id.clone(),
    })
}

fn secret_parameters<W>(
    oauth2: &OAuth2,
    inputs: &Inputs<'_, W>,
) -> Result<BTreeMap<String, SecretString>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let references = inputs.references.iter();
    let references = references.filter(|(reference, _)| reference.field == fields::EXTRA_PARAMETER);
    let parameters = oauth2.extra_parameters_from.iter().zip(references);
    parameters
        .map(|(parameter, (reference, lookup))| {
            Ok((parameter.name.clone(), resolve_printable(reference, lookup)?))
        })
        .collect()
}

fn egress_proxy<W>(stated: &EgressProxy, inputs: &Inputs<'_, W>) -> Result<oauth::EgressProxy, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let username = inputs.printable(fields::PROXY_USERNAME)?;
    let password = inputs.printable(fields::PROXY_PASSWORD)?;
    let credentials = username
        .zip(password)
        .map(|(username, password)| ProxyCredentials {
            username: username.expose_secret().to_owned(),
            password,
        });
    oauth::EgressProxy::new(&stated.url, credentials.as_ref(), &stated.no_proxy)
        .map_err(|error| invalid(format!("spec.egressProxy: {error}")))
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

fn authentication<W>(oauth2: &OAuth2, inputs: &Inputs<'_, W>) -> Result<ClientAuthentication, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let authentication = &oauth2.client_authentication;
    let secrets = || -> Result<ClientSecrets, NotServedError> {
        Ok(ClientSecrets {
            first: inputs
                .printable(fields::CLIENT_SECRET)?
                .map(client_secret)
                .ok_or_else(|| unset(fields::CLIENT_SECRET))?,
            alternate: inputs
                .printable(fields::ALTERNATE_SECRET)
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
            ClientAuthentication::PrivateKeyJwt {
                key: signing::client_key(jwt, inputs)?,
                audience: jwt.audience.clone(),
            }
        }
        ClientAuthenticationMethod::TlsClientAuth => {
            let pair = inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?;
            ClientAuthentication::Tls(pair.ok_or_else(|| unset(fields::CERTIFICATE))?)
        }
        ClientAuthenticationMethod::WorkloadIdentity => match workload_assertion(oauth2) {
            WorkloadAssertion::ClientAssertion => ClientAuthentication::Assertion(workload(oauth2, inputs)?),
            WorkloadAssertion::JwtBearer => ClientAuthentication::None,
        },
    })
}

fn client_secret(word: SecretString) -> ClientSecret {
    ClientSecret::new(word.expose_secret().to_owned())
}

fn grant<W>(oauth2: &OAuth2, inputs: &Inputs<'_, W>) -> Result<Grant, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    if let Some(assertion) = inputs.printable(fields::ASSERTION)? {
        return Ok(Grant::JwtBearer(Assertions::Given(GivenAssertion::new(
            assertion,
        ))));
    }
    if let Some(grant) = oauth2.jwt_bearer.as_ref().filter(|grant| grant.key_ref.is_some()) {
        return Ok(Grant::JwtBearer(signing::grant_assertions(
            oauth2, grant, inputs,
        )?));
    }
    let by_workload = oauth2.client_authentication.method == ClientAuthenticationMethod::WorkloadIdentity
        && workload_assertion(oauth2) == WorkloadAssertion::JwtBearer;
    Ok(match by_workload {
        true => Grant::JwtBearer(workload(oauth2, inputs)?),
        false => Grant::ClientCredentials,
    })
}

fn workload_assertion(oauth2: &OAuth2) -> WorkloadAssertion {
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    workload.map(|workload| workload.assertion).unwrap_or_default()
}

fn workload<W>(oauth2: &OAuth2, inputs: &Inputs<'_, W>) -> Result<Assertions, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let field = "spec.oauth2.clientAuthentication.workloadIdentity";
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    let workload = workload.ok_or_else(|| unset(field))?;
    (inputs.workload)(workload).unwrap_or_else(|| {
        let message = format!("{field}: there are no ServiceAccounts here");
        Err(NotServedError::new(NotServedReason::InvalidSpec, message))
    })
}

/// The digest of the token request. The certificate that only the MCP server is shown is no part of it.
fn request_digest<W>(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    inputs: &Inputs<'_, W>,
) -> Result<RequestDigest, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let of_server = [fields::SERVER_CERTIFICATE, fields::SERVER_KEY];
    let references = inputs.references.iter();
    let references = references.filter(|(reference, _)| !of_server.contains(&reference.field));
    let values = references.map(|(reference, lookup)| {
        let value = match resolve_reference(reference, lookup) {
            // The second of two secrets may come and go.
            Err(_) if reference.field == fields::ALTERNATE_SECRET => SecretString::default(),
            value => value?,
        };
        Ok((reference.field, value))
    });
    let values = values.collect::<Result<Vec<_>, NotServedError>>()?;
    Ok(RequestDigest::new(spec, oauth2, &values))
}

fn invalid(message: String) -> NotServedError {
    NotServedError::new(NotServedReason::InvalidSpec, message)
}

fn unset(field: &str) -> NotServedError {
    invalid(format!("{field} is not set"))
}

#[cfg(test)]
mod tests;
