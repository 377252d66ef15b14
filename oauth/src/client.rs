//! A client's registration at an authorization server, and the token request made with it.

use std::collections::BTreeMap;

use secrecy::SecretString;
use url::Url;

use crate::exchange::{Exchange, Exchanging, Issued};
use crate::quote::Quote;
use crate::transport::Transport;
use crate::{Error, Limits, request, response};

/// What an authorization server knows this client by, and what is asked of it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// URL of the token endpoint: https, or http if `allow_insecure_http`.
    pub token_url: String,
    pub client_id: String,
    pub authentication: ClientAuthentication,
    /// None: the authorization server's default.
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    /// `resource` (RFC 8707). `None`: not sent.
    pub resource: Option<String>,
    /// Further parameters; none that has a field here.
    pub extra_parameters: BTreeMap<String, String>,
    /// PEM certificates of authorities to trust besides the system's.
    pub ca_bundle: Option<String>,
    pub allow_insecure_http: bool,
}

/// How the client proves who it is.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// The secret in the Authorization header (RFC 6749 section 2.3.1).
    SecretBasic(SecretString),
    /// The secret in the form (RFC 6749 section 2.3.1).
    SecretPost(SecretString),
}

/// A client that can request tokens. Needs rustls' process-wide default provider to be installed.
#[derive(Clone, Debug)]
pub struct Client {
    registration: Registration,
    endpoint: Url,
    transport: Transport,
    quote: Quote,
}

impl Registration {
    /// The least that a registration needs.
    pub fn new(
        token_url: impl Into<String>,
        client_id: impl Into<String>,
        authentication: ClientAuthentication,
    ) -> Self {
        Self {
            token_url: token_url.into(),
            client_id: client_id.into(),
            authentication,
            scopes: Vec::new(),
            audience: None,
            resource: None,
            extra_parameters: BTreeMap::new(),
            ca_bundle: None,
            allow_insecure_http: false,
        }
    }
}

impl Client {
    /// A client with the usual limits. Makes no connection yet, but reads the system's certificate authorities.
    pub fn new(registration: Registration) -> Result<Self, Error> {
        Self::with_limits(registration, Limits::default())
    }

    pub fn with_limits(registration: Registration, limits: Limits) -> Result<Self, Error> {
        let endpoint = request::endpoint(&registration)?;
        request::check_extra_parameters(&registration)?;
        let transport = Transport::new(&endpoint, registration.ca_bundle.as_deref(), limits)?;
        let quote = match &registration.authentication {
            ClientAuthentication::SecretBasic(secret) | ClientAuthentication::SecretPost(secret) => {
                Quote::without_client_secret(&registration.client_id, secret)
            }
        };
        Ok(Self {
            registration,
            endpoint,
            transport,
            quote,
        })
    }

    /// Makes one token request.
    pub async fn request_token(&self) -> Result<Issued, Error> {
        let request = request::client_credentials(&self.registration, &self.endpoint)?;
        let answer = self.transport.send(request).await?;
        response::read(answer, &self.quote)
    }
}

impl Exchange for Client {
    fn exchange(&self) -> Exchanging<'_> {
        Box::pin(self.request_token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        let secret = ClientAuthentication::SecretPost("t0p-s3cret".into());
        Registration {
            allow_insecure_http: true,
            ..Registration::new("http://127.0.0.1:1/token", "client", secret)
        }
    }

    #[test]
    fn debug_output_never_holds_the_secret() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(registration()).unwrap();
        assert!(!format!("{client:?}").contains("t0p-s3cret"));
    }

    #[test]
    fn a_ca_bundle_that_holds_no_certificate_is_refused() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (pem, problem) in [
            ("", "holds no certificate"),
            ("hello", "holds no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                "is not PEM",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "holds a certificate that is none of an authority",
            ),
        ] {
            let registration = Registration {
                ca_bundle: Some(pem.into()),
                ..registration()
            };
            assert_eq!(
                Client::new(registration).unwrap_err(),
                Error::InvalidCaBundle { problem }
            );
        }
    }
}
