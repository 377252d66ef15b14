//! The client of an OAuth2 authorization server, from `spec.oauth2` and the values that it refers to.

use std::collections::BTreeMap;

use mcp_auth_crds::{
    ClientAuthenticationMethod, McpServerAuthSpec, OAuth2, ServiceToken, TokenCheckMode, TokenType,
    WorkloadAssertion, WorkloadIdentity, ZeroExpiresIn,
};
use mcp_auth_oauth::{
    self as oauth, Assertions, ClientAssertionType, ClientAuthentication, ClientId, ClientSecrets,
    GivenAssertion, Grant, Registration, Scope, ServerLocation, TokenCheck, TokenExchange,
};
use secrecy::SecretString;

use super::timing::Timing;
use super::{
    Inputs, client_id, client_secret, egress_proxy_for, exchange, invalid, request_digest, signing, unset,
};
use crate::effective::EffectiveSettings;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::{fields, resolve_printable};
use crate::token_sources::{ClientConfiguration, StepUpPolicy, stated_quota};

pub(super) fn client_configuration<W>(
    spec: &McpServerAuthSpec,
    oauth2: &OAuth2,
    server_ca: Option<String>,
    inputs: &Inputs<'_, W>,
) -> Result<ClientConfiguration, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let ca_bundle = inputs.bundle(fields::TOKEN_ENDPOINT_CA)?;
    let client_id = client_id(oauth2, inputs)?;
    let effective = EffectiveSettings::new(spec, oauth2, client_id.as_deref());
    let timing = Timing::parse(
        "spec.oauth2",
        &oauth2.refresh_before,
        Some(&effective.assumed_lifetime),
        &oauth2.request_timeout,
    )?;
    let registered_scopes = effective.scopes.clone();
    let egress_proxy = egress_proxy_for(spec, inputs)?;
    let authentication = authentication(oauth2, &effective, inputs)?;
    let token_exchange = match &oauth2.token_exchange {
        None => TokenExchange::default(),
        Some(exchange) => {
            let client = exchange::ClientThere {
                client_id: client_id.clone(),
                authentication: authentication.clone(),
                ca_bundle: ca_bundle.clone(),
                egress_proxy: egress_proxy.clone(),
            };
            exchange::token_exchange(oauth2, exchange, client, inputs)?
        }
    };
    let registration = Registration {
        server: location(spec, oauth2, &effective, server_ca, inputs.known_issuer.clone()),
        client_id: client_id.map(ClientId::new),
        authentication,
        certificate: inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?,
        grant: grant(oauth2, &effective, inputs)?,
        token_type: match oauth2.token_type {
            TokenType::Bearer => oauth::TokenType::Bearer,
            TokenType::DPoP => oauth::TokenType::DPoP,
        },
        token_exchange,
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
        egress_proxy,
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
        destinations: inputs.policy.authorization_servers.clone(),
    };
    Ok(ClientConfiguration {
        request_digest: request_digest(spec, &registration.server, inputs)?,
        registration,
        policy: timing.policy(),
        limits: timing.limits(),
        exchanges: oauth2.token_exchange.is_some(),
        service_token: oauth2.service_token == ServiceToken::Requested,
        revoke_on_deletion: oauth2.revoke_on_deletion,
        quota: stated_quota(oauth2),
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
            let key = signing::client_key(jwt, &signing::CLIENT_KEY, inputs)?;
            if jwt.managed.is_some() && client_id(oauth2, inputs)?.is_none() {
                return Err(invalid(
                    "spec.oauth2.clientId is not set, and there is no https URL that a client ID metadata document is \
                     published at, which could serve as one: set clientId, or managedKeys.url of the chart"
                        .into(),
                ));
            }
            ClientAuthentication::PrivateKeyJwt {
                key,
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
            WorkloadAssertion::JwtBearer | WorkloadAssertion::TokenExchange => ClientAuthentication::None,
        },
    })
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
    if oauth2.client_authentication.method != ClientAuthenticationMethod::WorkloadIdentity {
        return Ok(Grant::ClientCredentials);
    }
    Ok(match workload_assertion(oauth2) {
        WorkloadAssertion::ClientAssertion => Grant::ClientCredentials,
        WorkloadAssertion::JwtBearer => Grant::JwtBearer(workload(oauth2, effective, inputs)?),
        WorkloadAssertion::TokenExchange => Grant::TokenExchange(workload(oauth2, effective, inputs)?),
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
