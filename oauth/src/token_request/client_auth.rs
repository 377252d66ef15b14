//! Client authentication: from the method in the registration to what one request carries of it.

use std::time::Duration;

use jiff::Timestamp;
use oauth2::{ClientId, ClientSecret};
use secrecy::{ExposeSecret, SecretString};

use crate::discovery::endpoints::Endpoints;
use crate::egress_proxy::EgressProxy;
use crate::error::Error;
use crate::jose::assertion;
use crate::redact::Redactor;
use crate::registration::{ClientAssertionType, ClientAuthentication, ClientSecrets, Registration};

/// The client authentication of one request. No `Debug`: it holds secrets.
pub(crate) enum ClientAuth<'a> {
    /// Nothing, or the name alone: the rest is said elsewhere or by the TLS connection.
    Id(Option<&'a ClientId>),
    Basic {
        client_id: &'a ClientId,
        secret: &'a ClientSecret,
    },
    Post {
        client_id: &'a ClientId,
        secret: &'a ClientSecret,
    },
    Assertion {
        client_id: Option<&'a ClientId>,
        assertion: SecretString,
        kind: ClientAssertionType,
    },
}

/// One of the two client secrets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SecretChoice {
    First,
    Alternate,
}

impl<'a> ClientAuth<'a> {
    pub async fn for_request(
        registration: &'a Registration,
        endpoints: &Endpoints,
        secret: SecretChoice,
        now: Timestamp,
        limit: Duration,
    ) -> Result<Self, Error> {
        let client_id = registration.client_id.as_ref();
        let required_id = client_id.ok_or(Error::NoClientId);
        Ok(match &registration.authentication {
            ClientAuthentication::None => Self::Id(client_id),
            ClientAuthentication::Tls(_) => Self::Id(Some(required_id?)),
            ClientAuthentication::SecretBasic(secrets) => Self::Basic {
                client_id: required_id?,
                secret: secrets.get(secret),
            },
            ClientAuthentication::SecretPost(secrets) => Self::Post {
                client_id: required_id?,
                secret: secrets.get(secret),
            },
            ClientAuthentication::PrivateKeyJwt { key, audience } => {
                let audience = audience.resolve(endpoints.names());
                Self::Assertion {
                    client_id,
                    assertion: assertion::sign_for_client(key, required_id?, audience, now)?,
                    kind: ClientAssertionType::JwtBearer,
                }
            }
            ClientAuthentication::Assertion(assertions, kind) => Self::Assertion {
                kind: *kind,
                client_id,
                assertion: assertions.assertion(endpoints.names(), now, limit).await?,
            },
        })
    }

    /// `None`: the request does not name the client.
    pub fn client_id(&self) -> Option<&'a ClientId> {
        match self {
            Self::Id(client_id) | Self::Assertion { client_id, .. } => *client_id,
            Self::Basic { client_id, .. } | Self::Post { client_id, .. } => Some(client_id),
        }
    }
}

impl ClientSecrets {
    fn get(&self, secret: SecretChoice) -> &ClientSecret {
        match (secret, &self.alternate) {
            (SecretChoice::Alternate, Some(alternate)) => alternate,
            _ => &self.first,
        }
    }
}

/// Refuses a registration without a client identifier where one is needed.
pub(crate) fn check(registration: &Registration) -> Result<(), Error> {
    match &registration.authentication {
        ClientAuthentication::None | ClientAuthentication::Assertion(..) => Ok(()),
        _ if registration.client_id.is_some() => Ok(()),
        _ => Err(Error::NoClientId),
    }
}

/// The client secrets; `None` where the method uses none.
pub(crate) fn secrets(registration: &Registration) -> Option<&ClientSecrets> {
    match &registration.authentication {
        ClientAuthentication::SecretBasic(secrets) | ClientAuthentication::SecretPost(secrets) => {
            Some(secrets)
        }
        _ => None,
    }
}

/// Redacts the secrets of the registration.
pub(crate) fn redactor(registration: &Registration) -> Redactor {
    let client_id = registration.client_id.as_ref().map_or("", |id| id.as_str());
    let mut redactor = Redactor::default();
    if let Some(secrets) = secrets(registration) {
        for secret in [Some(&secrets.first), secrets.alternate.as_ref()]
            .into_iter()
            .flatten()
        {
            redactor = redactor.hide_client_secret(client_id, secret);
        }
    }
    for value in registration.secret_parameters.values() {
        redactor = redactor.hide_form_value(value.expose_secret());
    }
    let proxy = registration.egress_proxy.iter();
    proxy
        .flat_map(EgressProxy::secrets)
        .fold(redactor, Redactor::hide)
}

/// Redacts what this request carries besides.
pub(crate) fn with_request_secrets(client_auth: &ClientAuth<'_>, redactor: Redactor) -> Redactor {
    match client_auth {
        ClientAuth::Assertion { assertion, .. } => redactor.hide_form_value(assertion.expose_secret()),
        _ => redactor,
    }
}
