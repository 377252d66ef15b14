//! The desired token source of a resource: a pure function of the spec and of what its references lead to.

mod github_app;
mod signing;

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_auth_crds::{
    AuditLevel, ClientAuthenticationMethod, EgressProxy, ExchangeProfile, McpServerAuthSpec, OAuth2,
    ServiceToken, TokenCheckMode, TokenType, WorkloadAssertion, WorkloadIdentity, ZeroExpiresIn,
};
use mcp_auth_oauth::{
    self as oauth, Assertions, ClientAssertionType, ClientAuthentication, ClientCertificate, ClientId,
    ClientSecret, ClientSecrets, GivenAssertion, Grant, Limits, Policy, ProxyCredentials, RefreshBefore,
    Registration, Scope, ServerLocation, TimeSpan, TokenCheck, TokenExchange,
};
use mcp_auth_protocol::sync;
use secrecy::{ExposeSecret, SecretString};

use crate::administrator_policy::AdministratorPolicy;
use crate::credential_identity::RequestDigest;
use crate::effective::EffectiveSettings;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::{Lookup, Reference, fields, resolve_printable, resolve_reference};
use crate::store::ServerTls;
use crate::token_sources::{ClientConfiguration, Desired, DesiredSource, StepUpPolicy};

/// Longest time that passes before a token request is sent: discovery (30 s), a turn at the server (20 s), and what
/// lies between.
const PREPARATION_TIMEOUT: Duration = Duration::from_secs(55);

/// When tokens are renewed, and how long a request may take.
struct Timing {
    refresh_before: RefreshBefore,
    /// `None`: every token states its life.
    assumed_lifetime: Option<Duration>,
    request_timeout: Duration,
}

impl Timing {
    /// `part` is the part of the spec that the durations are fields of.
    fn parse(
        part: &str,
        refresh_before: &str,
        assumed_lifetime: Option<&str>,
        request_timeout: &str,
    ) -> Result<Self, NotServedError> {
        let span = |field: &str, text: &str| match text.parse::<TimeSpan>() {
            Ok(TimeSpan(duration)) => Ok(duration),
            Err(error) => Err(invalid(format!("{part}.{field} {error}"))),
        };
        Ok(Self {
            refresh_before: refresh_before
                .parse()
                .map_err(|error| invalid(format!("{part}.refreshBefore: {error}")))?,
            assumed_lifetime: assumed_lifetime
                .map(|text| span("assumedLifetime", text))
                .transpose()?,
            request_timeout: span("requestTimeout", request_timeout)?,
        })
    }

    fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            refresh_before: self.refresh_before,
            assumed_lifetime: self.assumed_lifetime.unwrap_or(default.assumed_lifetime),
            deadline: PREPARATION_TIMEOUT + self.request_timeout,
            ..default
        }
    }

    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            deadline: self.request_timeout,
            connect: default.connect.min(self.request_timeout),
            ..default
        }
    }
}

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
            let configuration = match (&spec.oauth2, &spec.github_app) {
                (Some(oauth2), _) => client_configuration(spec, oauth2, ca_bundle.clone(), inputs)?,
                (None, Some(app)) => github_app::client_configuration(spec, app, inputs)?,
                (None, None) => {
                    return Err(invalid(
                        "spec has none of oauth2, githubApp and bearerToken".into(),
                    ));
                }
            };
            DesiredSource::OAuth2(Box::new(configuration))
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
        egress_proxy: egress_proxy_for(spec, inputs)?,
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
    let client_id = client_id(oauth2, inputs)?;
    let effective = EffectiveSettings::new(spec, oauth2, client_id.as_deref());
    let timing = Timing::parse(
        "spec.oauth2",
        &oauth2.refresh_before,
        Some(&effective.assumed_lifetime),
        &oauth2.request_timeout,
    )?;
    let registered_scopes = effective.scopes.clone();
    let registration = Registration {
        server: location(spec, oauth2, &effective, server_ca, inputs.known_issuer.clone()),
        client_id: client_id.map(ClientId::new),
        authentication: authentication(oauth2, &effective, inputs)?,
        certificate: inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?,
        grant: grant(oauth2, &effective, inputs)?,
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
        scopes: effective.scopes.into_iter().map(Scope::new).collect(),
        audience: effective.audience,
        resource: effective.resource,
        extra_parameters: oauth2.extra_parameters.clone(),
        secret_parameters: secret_parameters(oauth2, inputs)?,
        check: TokenCheck {
            mode: match oauth2.token_check.mode {
                TokenCheckMode::Enforce => oauth::TokenCheckMode::Enforce,
                TokenCheckMode::Report => oauth::TokenCheckMode::Report,
                TokenCheckMode::Off => oauth::TokenCheckMode::Off,
            },
            accepted_audiences: effective.accepted_audiences,
            accepted_issuers: effective.accepted_issuers,
        },
        zero_expires_in: match oauth2.zero_expires_in {
            ZeroExpiresIn::Expired => oauth::ZeroExpiresIn::Expired,
            ZeroExpiresIn::Unlimited => oauth::ZeroExpiresIn::Unlimited,
        },
        ca_bundle,
        egress_proxy: egress_proxy_for(spec, inputs)?,
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
        destinations: inputs.policy.authorization_servers.clone(),
    };
    Ok(ClientConfiguration {
        registration,
        policy: timing.policy(),
        limits: timing.limits(),
        request_digest: request_digest(spec, inputs)?,
        exchanges: oauth2.token_exchange.is_some(),
        service_token: oauth2.service_token == ServiceToken::Requested,
        revoke_on_deletion: oauth2.revoke_on_deletion,
        step_up: match oauth2.step_up {
            false => StepUpPolicy::Off {
                why: "spec.oauth2.stepUp is false",
            },
            true => StepUpPolicy::Allowed {
                allowed: oauth2.step_up_allowed_scopes.clone(),
                registered: registered_scopes,
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

/// The resource's own, or else the operator's.
fn egress_proxy_for<W>(
    spec: &McpServerAuthSpec,
    inputs: &Inputs<'_, W>,
) -> Result<Option<oauth::EgressProxy>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    match &spec.egress_proxy {
        Some(stated) => egress_proxy(stated, inputs).map(Some),
        None => Ok(inputs.egress_proxy.clone()),
    }
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
    effective: &EffectiveSettings,
    server_ca: Option<String>,
    known_issuer: Option<String>,
) -> ServerLocation {
    match (&effective.token_url, &oauth2.issuer) {
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

fn authentication<W>(
    oauth2: &OAuth2,
    effective: &EffectiveSettings,
    inputs: &Inputs<'_, W>,
) -> Result<ClientAuthentication, NotServedError>
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
                audience: effective.client_assertion_audience.clone(),
            }
        }
        ClientAuthenticationMethod::TlsClientAuth => {
            let pair = inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?;
            ClientAuthentication::Tls(pair.ok_or_else(|| unset(fields::CERTIFICATE))?)
        }
        ClientAuthenticationMethod::ClientAssertion => {
            let stated = authentication.client_assertion.as_ref();
            let stated = stated.ok_or_else(|| unset("spec.oauth2.clientAuthentication.clientAssertion"))?;
            let text = inputs.printable(fields::CLIENT_ASSERTION)?;
            let text = text.ok_or_else(|| unset(fields::CLIENT_ASSERTION))?;
            let kind = match stated.r#type {
                mcp_auth_crds::ClientAssertionType::JwtBearer => ClientAssertionType::JwtBearer,
                mcp_auth_crds::ClientAssertionType::JwtSpiffe => ClientAssertionType::JwtSpiffe,
            };
            ClientAuthentication::Assertion(Assertions::Given(GivenAssertion::for_client(text)), kind)
        }
        ClientAuthenticationMethod::WorkloadIdentity => match workload_assertion(oauth2) {
            WorkloadAssertion::ClientAssertion => ClientAuthentication::Assertion(
                workload(oauth2, effective, inputs)?,
                ClientAssertionType::JwtBearer,
            ),
            WorkloadAssertion::JwtBearer => ClientAuthentication::None,
        },
    })
}

fn client_secret(word: SecretString) -> ClientSecret {
    ClientSecret::new(word.expose_secret().to_owned())
}

fn grant<W>(
    oauth2: &OAuth2,
    effective: &EffectiveSettings,
    inputs: &Inputs<'_, W>,
) -> Result<Grant, NotServedError>
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
            oauth2, grant, effective, inputs,
        )?));
    }
    let by_workload = oauth2.client_authentication.method == ClientAuthenticationMethod::WorkloadIdentity
        && workload_assertion(oauth2) == WorkloadAssertion::JwtBearer;
    Ok(match by_workload {
        true => Grant::JwtBearer(workload(oauth2, effective, inputs)?),
        false => Grant::ClientCredentials,
    })
}

fn workload_assertion(oauth2: &OAuth2) -> WorkloadAssertion {
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    workload.map(|workload| workload.assertion).unwrap_or_default()
}

fn workload<W>(
    oauth2: &OAuth2,
    effective: &EffectiveSettings,
    inputs: &Inputs<'_, W>,
) -> Result<Assertions, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let field = "spec.oauth2.clientAuthentication.workloadIdentity";
    let workload = oauth2.client_authentication.workload_identity.clone();
    let workload = WorkloadIdentity {
        audience: effective.workload_audience.clone(),
        ..workload.ok_or_else(|| unset(field))?
    };
    (inputs.workload)(&workload).unwrap_or_else(|| {
        let message = format!("{field}: there are no ServiceAccounts here");
        Err(NotServedError::new(NotServedReason::InvalidSpec, message))
    })
}

/// The digest of the token request. The certificate that only the MCP server is shown is no part of it.
fn request_digest<W>(
    spec: &McpServerAuthSpec,
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
    Ok(RequestDigest::new(spec, &values))
}

fn invalid(message: String) -> NotServedError {
    NotServedError::new(NotServedReason::InvalidSpec, message)
}

fn unset(field: &str) -> NotServedError {
    invalid(format!("{field} is not set"))
}

#[cfg(test)]
mod tests;
