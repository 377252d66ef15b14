//! Grants: client credentials, which the oauth2 crate builds the request of, and beside
//! it, in the same shape, the grants that it does not know.

use std::collections::BTreeMap;

use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, RequestTokenError, Scope, StandardRevocableToken, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::registration::ID_JAG_TYPE;
use crate::token_request::client_auth::ClientAuth;
use crate::token_request::form::{self, Form};
use crate::token_request::response::{self, TokenEndpointResponse};
use crate::transport::body_shape::BodyShape;
use crate::{ACCESS_TOKEN_TYPE, Error, ExchangeProfile, Registration};

/// RFC 7523 section 2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 8693 section 3.
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// oauth2's client, with the response that this crate reads.
type OAuth2Client = oauth2::Client<
    BasicErrorResponse,
    TokenEndpointResponse,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// What every grant asks for.
#[derive(Clone, Copy)]
pub(crate) struct GrantParameters<'a> {
    pub registration: &'a Registration,
    pub scopes: &'a [Scope],
    /// `None`: not sent.
    pub audience: Option<&'a str>,
    /// RFC 8707. `None`: not sent.
    pub resource: Option<&'a str>,
    pub extra_parameters: &'a BTreeMap<String, String>,
}

/// A token request, without the authentication of the client that sends it. No `Debug`: it may hold secrets.
pub(crate) enum GrantRequest {
    /// RFC 6749 section 4.4.2. The parameters are those beyond it.
    ClientCredentials {
        scopes: Vec<Scope>,
        parameters: Vec<(String, String)>,
    },
    /// A grant with a `grant_type` of its own (RFC 6749 section 4.5).
    Extension(Form),
}

impl GrantRequest {
    pub fn client_credentials(parameters: &GrantParameters<'_>) -> Self {
        Self::ClientCredentials {
            scopes: parameters.scopes.to_vec(),
            parameters: parameters.beyond_scope(),
        }
    }

    /// RFC 7523 section 2.1.
    pub fn jwt_bearer(parameters: &GrantParameters<'_>, assertion: &SecretString) -> Self {
        let form = Form::grant(JWT_BEARER).with_parameter("assertion", assertion.expose_secret());
        Self::Extension(parameters.add_to(form))
    }

    /// RFC 8693 section 2.1, or what an authorization server has instead.
    pub fn token_exchange(parameters: &GrantParameters<'_>, subject_token: &SecretString) -> Self {
        let exchange = &parameters.registration.token_exchange;
        if exchange.profile == ExchangeProfile::EntraOnBehalfOf {
            let form = Form::grant(JWT_BEARER)
                .with_parameter("assertion", subject_token.expose_secret())
                .with_parameter("requested_token_use", "on_behalf_of");
            return Self::Extension(parameters.add_to(form));
        }
        let form = token_exchange(
            subject_token,
            &exchange.subject_token_type,
            exchange.requested_token_type.as_deref(),
        );
        Self::Extension(parameters.add_to(form))
    }

    /// RFC 8693 section 2.1, with the JWT of a workload as the subject. The type is stated, since Google's Security Token
    /// Service demands it.
    pub fn workload_exchange(parameters: &GrantParameters<'_>, subject_token: &SecretString) -> Self {
        let form = token_exchange(subject_token, JWT_TYPE, Some(ACCESS_TOKEN_TYPE));
        Self::Extension(parameters.add_to(form))
    }

    /// RFC 8693 section 2.1, for an identity assertion authorization grant
    /// (draft-ietf-oauth-identity-assertion-authz-grant section 4.3).
    pub fn id_jag(
        parameters: &GrantParameters<'_>,
        subject_token: &SecretString,
        subject_type: &str,
    ) -> Self {
        let form = token_exchange(subject_token, subject_type, Some(ID_JAG_TYPE));
        Self::Extension(parameters.add_to(form))
    }

    /// Sends it and reads the answer. What `http` takes for an answer that issues no token comes back as its
    /// error.
    pub async fn send<C>(
        &self,
        endpoint: &Url,
        client_auth: &ClientAuth<'_>,
        http: &C,
    ) -> Result<TokenEndpointResponse, Error>
    where
        C: for<'c> AsyncHttpClient<'c, Error = Error>,
    {
        let (scopes, parameters) = match self {
            Self::ClientCredentials { scopes, parameters } => (scopes, parameters),
            Self::Extension(form) => {
                let request = form::build(form, endpoint, client_auth)?;
                return response::parse(http.call(request).await?.body());
            }
        };
        let client_id = client_auth.client_id().cloned();
        let mut client = OAuth2Client::new(client_id.unwrap_or_else(|| ClientId::new(String::new())))
            .set_token_uri(TokenUrl::from_url(endpoint.clone()));
        let secret = match client_auth {
            ClientAuth::Basic { secret, .. } => Some((AuthType::BasicAuth, secret)),
            ClientAuth::Post { secret, .. } => Some((AuthType::RequestBody, secret)),
            ClientAuth::Id(_) | ClientAuth::Assertion { .. } => None,
        };
        if let Some((method, secret)) = secret {
            client = client.set_auth_type(method).set_client_secret((*secret).clone());
        }
        let mut request = client
            .exchange_client_credentials()
            .add_scopes(scopes.iter().cloned());
        for (name, value) in parameters {
            request = request.add_extra_param(name, value);
        }
        request.request_async(http).await.map_err(|error| match error {
            RequestTokenError::Request(error) => error,
            RequestTokenError::Parse(_, body) => Error::NotJson {
                shape: BodyShape::classify(&body, false),
                content_type: None,
            },
            RequestTokenError::ServerResponse(_) | RequestTokenError::Other(_) => form::unbuilt(()),
        })
    }
}

fn token_exchange(subject_token: &SecretString, subject_type: &str, requested_type: Option<&str>) -> Form {
    let form = Form::grant("urn:ietf:params:oauth:grant-type:token-exchange")
        .with_parameter("subject_token", subject_token.expose_secret())
        .with_parameter("subject_token_type", subject_type);
    match requested_type {
        Some(kind) => form.with_parameter("requested_token_type", kind),
        None => form,
    }
}

impl GrantParameters<'_> {
    fn beyond_scope(&self) -> Vec<(String, String)> {
        let stated = [("audience", self.audience), ("resource", self.resource)];
        let extra = self.extra_parameters.iter();
        let secret = self.registration.secret_parameters.iter();
        let secret = secret.map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        stated
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .chain(extra.map(|(name, value)| (name.clone(), value.clone())))
            .chain(secret)
            .collect()
    }

    fn add_to(&self, mut form: Form) -> Form {
        if !self.scopes.is_empty() {
            let names: Vec<&str> = self.scopes.iter().map(AsRef::as_ref).collect();
            form = form.with_parameter("scope", &names.join(" "));
        }
        for (name, value) in self.beyond_scope() {
            form = form.with_parameter(&name, &value);
        }
        form
    }
}

#[cfg(test)]
mod tests;
