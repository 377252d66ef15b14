//! How users' tokens are exchanged, from `spec.oauth2.tokenExchange`, and the client of the identity provider that some of
//! them are exchanged at first.

use std::collections::BTreeMap;

use mcp_auth_crds::{
    ExchangeProfile, IdentityProvider, IdentityProviderMethod, OAuth2, TokenExchange, WorkloadIdentity,
};
use mcp_auth_oauth::{
    self as oauth, AssertionAudience, Assertions, ClientAuthentication, ClientId, ClientSecrets, EgressProxy,
    Registration, Scope, ServerLocation, TokenCheck, TokenCheckMode,
};

use super::{Inputs, client_secret, signing, unset};
use crate::not_served::NotServedError;
use crate::references::fields;

/// What the client of the identity provider has of the authorization server's where nothing else is stated.
pub struct ClientThere {
    pub client_id: Option<String>,
    pub authentication: ClientAuthentication,
    pub ca_bundle: Option<String>,
    pub egress_proxy: Option<EgressProxy>,
}

pub fn token_exchange<W>(
    oauth2: &OAuth2,
    exchange: &TokenExchange,
    client: ClientThere,
    inputs: &Inputs<'_, W>,
) -> Result<oauth::TokenExchange, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let identity_provider = exchange.identity_provider.as_ref();
    let identity_provider = identity_provider
        .map(|provider| identity_provider_client(oauth2, provider, client, inputs))
        .transpose()?;
    let default_type = match exchange.profile {
        ExchangeProfile::Rfc8693 | ExchangeProfile::EntraObo => oauth::ACCESS_TOKEN_TYPE,
        ExchangeProfile::IdJag => oauth::ID_TOKEN_TYPE,
    };
    let stated_scopes = !exchange.scopes.is_empty();
    let scopes = || exchange.scopes.iter().cloned().map(Scope::new).collect();
    Ok(oauth::TokenExchange {
        profile: match exchange.profile {
            ExchangeProfile::Rfc8693 => oauth::ExchangeProfile::TokenExchange,
            ExchangeProfile::EntraObo => oauth::ExchangeProfile::EntraOnBehalfOf,
            ExchangeProfile::IdJag => oauth::ExchangeProfile::IdJag,
        },
        subject_token_type: exchange
            .subject_token_type
            .clone()
            .unwrap_or_else(|| default_type.to_owned()),
        requested_token_type: exchange.requested_token_type.clone(),
        scopes: stated_scopes.then(scopes),
        audience: exchange.audience.clone(),
        extra_parameters: Some(exchange.extra_parameters.clone()).filter(|stated| !stated.is_empty()),
        identity_provider: identity_provider.map(Box::new),
    })
}

fn identity_provider_client<W>(
    oauth2: &OAuth2,
    provider: &IdentityProvider,
    client: ClientThere,
    inputs: &Inputs<'_, W>,
) -> Result<Registration, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let server = match (&provider.issuer, &provider.token_url) {
        (Some(issuer), _) => ServerLocation::Issuer(issuer.clone()),
        (None, token_url) => ServerLocation::Endpoints {
            token_url: token_url
                .clone()
                .ok_or_else(|| unset("spec.oauth2.tokenExchange.identityProvider.issuer"))?,
            revocation_url: None,
        },
    };
    let authentication = match &provider.client_authentication {
        None => match client.authentication {
            // What is stated is the authorization server's name.
            ClientAuthentication::PrivateKeyJwt {
                key,
                audience: AssertionAudience::Stated(_),
            } => ClientAuthentication::PrivateKeyJwt {
                key,
                audience: AssertionAudience::Issuer,
            },
            authentication => authentication,
        },
        Some(stated) => {
            let secrets = || -> Result<ClientSecrets, NotServedError> {
                let secret = inputs.printable(fields::IDENTITY_PROVIDER_SECRET)?;
                let secret = secret.ok_or_else(|| unset(fields::IDENTITY_PROVIDER_SECRET))?;
                Ok(ClientSecrets {
                    first: client_secret(secret),
                    alternate: None,
                })
            };
            match stated.method {
                IdentityProviderMethod::ClientSecretBasic => ClientAuthentication::SecretBasic(secrets()?),
                IdentityProviderMethod::ClientSecretPost => ClientAuthentication::SecretPost(secrets()?),
                IdentityProviderMethod::PrivateKeyJwt => {
                    let jwt = stated.private_key_jwt.as_ref();
                    let jwt = jwt.ok_or_else(|| unset(fields::IDENTITY_PROVIDER_KEY))?;
                    ClientAuthentication::PrivateKeyJwt {
                        key: signing::client_key(jwt, &signing::IDENTITY_PROVIDER_KEY, inputs)?,
                        audience: match &jwt.audience {
                            Some(stated) => AssertionAudience::Stated(stated.clone()),
                            None => AssertionAudience::Issuer,
                        },
                    }
                }
            }
        }
    };
    let certificate = match provider.client_authentication {
        None => inputs.pair(fields::CERTIFICATE, fields::CERTIFICATE_KEY)?,
        Some(_) => None,
    };
    let client_id = provider.client_id.clone().or(client.client_id);
    Ok(Registration {
        server,
        client_id: client_id.map(ClientId::new),
        certificate,
        // What it issues is for the authorization server to read.
        check: TokenCheck {
            mode: TokenCheckMode::Off,
            ..TokenCheck::default()
        },
        extra_parameters: BTreeMap::new(),
        ca_bundle: client.ca_bundle,
        egress_proxy: client.egress_proxy,
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
        destinations: inputs.policy.authorization_servers.clone(),
        ..Registration::new(String::new(), String::new(), authentication)
    })
}
