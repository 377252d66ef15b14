//! Exchanges of users' tokens: one request (RFC 8693, or what a server has instead), or the two of an identity assertion
//! authorization grant.

use secrecy::{ExposeSecret, SecretString};

use super::Client;
use crate::discovery::endpoints::Endpoints;
use crate::token_request::grant::{GrantParameters, GrantRequest};
use crate::token_request::response::RequestedBy;
use crate::{Error, IssuedToken};

impl Client {
    /// Exchanges a user's token for one of the user's own at the MCP server.
    pub async fn exchange_token(&self, subject_token: &SecretString) -> Result<IssuedToken, Error> {
        let server = self.server().await?;
        let parameters = self.exchange_parameters(&server);
        let redactor = self
            .redactor
            .clone()
            .hide_form_value(subject_token.expose_secret());
        let Some(identity_provider) = &self.identity_provider else {
            let request = GrantRequest::token_exchange(&parameters, subject_token);
            let request = self.grant(request, RequestedBy::TokenExchange);
            return self
                .issue(&server, request, redactor, RequestedBy::TokenExchange)
                .await;
        };
        let id_jag = identity_provider
            .request_id_jag(&parameters, (subject_token, &server))
            .await
            .map_err(|error| match error {
                Error::NoIdJag => error,
                error => Error::IdentityProvider(Box::new(error)),
            })?;
        // The grant says itself for whom and for what it is.
        let beyond = GrantParameters {
            scopes: &[],
            audience: None,
            resource: None,
            ..self.parameters(&server, &[])
        };
        let request = GrantRequest::jwt_bearer(&beyond, &id_jag);
        let request = self.grant(request, RequestedBy::TokenExchange);
        let redactor = redactor.hide_form_value(id_jag.expose_secret());
        self.issue(&server, request, redactor, RequestedBy::TokenExchange)
            .await
    }

    /// Of the identity provider, which this is the client of: the grant for `parameters` at the authorization server.
    async fn request_id_jag(
        &self,
        parameters: &GrantParameters<'_>,
        (subject_token, authorization_server): (&SecretString, &Endpoints),
    ) -> Result<SecretString, Error> {
        let server = self.server().await?;
        let exchange = &parameters.registration.token_exchange;
        let parameters = GrantParameters {
            registration: &self.registration,
            audience: exchange
                .audience
                .as_deref()
                .or_else(|| Some(authorization_server.names().issuer)),
            extra_parameters: exchange
                .extra_parameters
                .as_ref()
                .unwrap_or(&self.registration.extra_parameters),
            ..*parameters
        };
        let request = GrantRequest::id_jag(&parameters, subject_token, &exchange.subject_token_type);
        let request = self.grant(request, RequestedBy::IdJagExchange);
        let redactor = self
            .redactor
            .clone()
            .hide_form_value(subject_token.expose_secret());
        let issued = self
            .issue(&server, request, redactor, RequestedBy::IdJagExchange)
            .await?;
        Ok(SecretString::from(issued.access_token.into_secret()))
    }

    /// What exchanges ask for: their own settings, or else those of the service's token.
    fn exchange_parameters<'a>(&'a self, server: &'a Endpoints) -> GrantParameters<'a> {
        let exchange = &self.registration.token_exchange;
        let scopes = exchange.scopes.as_deref();
        let common = self.parameters(server, scopes.unwrap_or_else(|| self.scopes(server)));
        GrantParameters {
            audience: exchange.audience.as_deref().or(common.audience),
            extra_parameters: exchange
                .extra_parameters
                .as_ref()
                .unwrap_or(common.extra_parameters),
            ..common
        }
    }
}
