//! A form and the request that carries it: for the grants that the oauth2 crate does not know, and for
//! revocation.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use oauth2::{AccessToken, ClientId, ClientSecret, HttpRequest, Scope};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use url::form_urlencoded::{self, Serializer, byte_serialize};

use crate::token_request::client_auth::ClientAuth;
use crate::{ClientAssertionType, Error, Registration};

/// Parameters that the registration has fields for, or that a grant or client authentication needs.
const RESERVED: [&str; 14] = [
    "grant_type",
    "scope",
    "audience",
    "resource",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
];

/// The parameters of a request, without those of the client that sends it. No `Debug`: it may hold secrets.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// RFC 7009 section 2.1.
    pub fn revocation(token: &AccessToken) -> Self {
        Self(Vec::new())
            .with_parameter("token", token.secret())
            .with_parameter("token_type_hint", "access_token")
    }

    pub fn grant(grant_type: &str) -> Self {
        Self(Vec::new()).with_parameter("grant_type", grant_type)
    }

    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Refuses parameters that would contradict the registration's own.
pub(crate) fn check_extra_parameters(registration: &Registration) -> Result<(), Error> {
    match registration
        .extra_parameters
        .keys()
        .chain(registration.secret_parameters.keys())
        .chain(
            registration
                .token_exchange
                .extra_parameters
                .iter()
                .flat_map(BTreeMap::keys),
        )
        .find(|name| RESERVED.contains(&name.as_str()))
    {
        Some(name) => Err(Error::ReservedParameter { name: name.clone() }),
        None => Ok(()),
    }
}

/// `first`, and what of `second` is not among them.
pub(crate) fn union(first: &[Scope], second: &[Scope]) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::with_capacity(first.len() + second.len());
    for scope in first.iter().chain(second) {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

/// A request with this form, with the client authentication of RFC 6749 section 2.3.1 that the oauth2 crate
/// adds to requests of its own.
pub(crate) fn build(form: &Form, endpoint: &Url, client_auth: &ClientAuth<'_>) -> Result<HttpRequest, Error> {
    let mut body = Serializer::new(String::new());
    body.extend_pairs(form.0.iter().map(|(name, value)| (name, value)));
    let mut request = HttpRequest::new(Vec::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.as_str().parse().map_err(unbuilt)?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    match client_auth {
        ClientAuth::Basic { client_id, secret } => {
            headers.insert(AUTHORIZATION, basic(client_id, secret)?);
        }
        ClientAuth::Post { client_id, secret } => {
            body.append_pair("client_id", client_id)
                .append_pair("client_secret", secret.secret());
        }
        // Optional beside an assertion (RFC 7521 section 4.2), and yet demanded by some.
        ClientAuth::Id(client_id) | ClientAuth::Assertion { client_id, .. } => {
            body.extend_pairs(client_id.map(|id| ("client_id", id.as_str())));
        }
    }
    *request.body_mut() = body.finish().into_bytes();
    Ok(request)
}

/// The oauth2 crate names the client even where it has no name.
pub(crate) fn without_empty_client_id(body: &[u8]) -> Vec<u8> {
    let pairs = form_urlencoded::parse(body).filter(|(name, value)| name != "client_id" || !value.is_empty());
    Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
        .into_bytes()
}

/// RFC 7523 section 2.2.
pub(crate) fn with_client_assertion(
    body: Vec<u8>,
    assertion: &SecretString,
    kind: ClientAssertionType,
) -> Vec<u8> {
    let mut added = Serializer::new(String::new());
    added
        .append_pair("client_assertion_type", kind.as_str())
        .append_pair("client_assertion", assertion.expose_secret());
    [body, b"&".to_vec(), added.finish().into_bytes()].concat()
}

/// Name and secret are form-urlencoded before anything else (RFC 6749 section 2.3.1).
fn basic(client_id: &ClientId, secret: &ClientSecret) -> Result<HeaderValue, Error> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encode(client_id), encode(secret.secret()));
    HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(both))).map_err(unbuilt)
}

pub(crate) fn unbuilt<E>(_: E) -> Error {
    Error::InvalidUrl {
        problem: "cannot be requested",
    }
}

#[cfg(test)]
mod tests;
