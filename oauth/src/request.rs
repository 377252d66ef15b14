//! The token request, built and not yet sent: from the registration to method, headers and form.
//!
//! The oauth2 crate builds it and does no more. What it makes of an answer is of no use here: it knows status 200
//! only, drops `Retry-After`, refuses `"expires_in": "3600"`, and keeps the body, token and all, in its errors.

use std::fmt;

use http::header::AUTHORIZATION;
use oauth2::basic::BasicClient;
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RequestTokenError, Scope, TokenUrl,
};
use secrecy::ExposeSecret;
use url::Url;

use crate::{ClientAuthentication, Error, Registration, ServerLocation};

/// Parameters that the registration has fields for, or that client authentication will need.
const RESERVED: [&str; 8] = [
    "grant_type",
    "scope",
    "audience",
    "resource",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
];

/// Passes a built request out of the oauth2 crate, by the only way there is: as the error of an HTTP client.
struct Built(Box<HttpRequest>);

/// The token endpoint, if it may be sent a secret.
pub(crate) fn endpoint(registration: &Registration) -> Result<Url, Error> {
    let invalid = |problem| Error::InvalidUrl { problem };
    let ServerLocation::Endpoints { token_url, .. } = &registration.server else {
        todo!()
    };
    let url = Url::parse(token_url).map_err(|_| invalid("is not an absolute URL"))?;
    match url.scheme() {
        "https" => {}
        "http" if registration.allow_insecure_http => {}
        "http" => {
            return Err(invalid(
                "is plain http, which would show the client secret to everyone on the way, and allowInsecureHttp \
                 is not set",
            ));
        }
        _ => return Err(invalid("is neither an https nor an http URL")),
    }
    if url.fragment().is_some() {
        return Err(invalid("has a fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("holds a user name or password"));
    }
    // The two crates that read the URL from here on do not agree on everything.
    if url.as_str().parse::<http::Uri>().is_err() {
        return Err(invalid("cannot be requested"));
    }
    Ok(url)
}

/// Refuses parameters that would contradict the registration's own.
pub(crate) fn check_extra_parameters(registration: &Registration) -> Result<(), Error> {
    match registration
        .extra_parameters
        .keys()
        .find(|name| RESERVED.contains(&name.as_str()))
    {
        Some(name) => Err(Error::ReservedParameter { name: name.clone() }),
        None => Ok(()),
    }
}

/// The request of the grant client_credentials (RFC 6749 section 4.4.2).
pub(crate) fn client_credentials(registration: &Registration, endpoint: &Url) -> Result<HttpRequest, Error> {
    let (auth_type, secret) = match &registration.authentication {
        ClientAuthentication::SecretBasic(secrets) => (AuthType::BasicAuth, &secrets.first),
        ClientAuthentication::SecretPost(secrets) => (AuthType::RequestBody, &secrets.first),
        _ => todo!(),
    };
    let client_id = registration.client_id.clone().unwrap_or_default();
    let client = BasicClient::new(ClientId::new(client_id))
        .set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()))
        .set_auth_type(auth_type)
        .set_token_uri(TokenUrl::from_url(endpoint.clone()));
    let mut request = client
        .exchange_client_credentials()
        .add_scopes(registration.scopes.iter().cloned().map(Scope::new));
    for (name, value) in [
        ("audience", &registration.audience),
        ("resource", &registration.resource),
    ] {
        if let Some(value) = value {
            request = request.add_extra_param(name, value);
        }
    }
    for (name, value) in &registration.extra_parameters {
        request = request.add_extra_param(name, value);
    }
    let pass = |request| Err::<HttpResponse, _>(Built(Box::new(request)));
    match request.request(&pass) {
        Err(RequestTokenError::Request(Built(mut request))) => {
            // Keeps the secret out of the logs of the HTTP crates.
            if let Some(credentials) = request.headers_mut().get_mut(AUTHORIZATION) {
                credentials.set_sensitive(true);
            }
            Ok(*request)
        }
        _ => Err(Error::InvalidUrl {
            problem: "cannot be requested",
        }),
    }
}

impl fmt::Debug for Built {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Built")
    }
}

impl fmt::Display for Built {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the request is built")
    }
}

impl std::error::Error for Built {}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};
    use url::form_urlencoded;

    use super::*;

    const SECRET: &str = "s:e/c+r&e=t %ü";

    fn registration(authentication: ClientAuthentication) -> Registration {
        Registration::new(
            "https://auth.example.com/oauth2/token",
            "cli:ent/1",
            authentication,
        )
    }

    fn basic() -> Registration {
        registration(ClientAuthentication::SecretBasic(SECRET.into()))
    }

    fn build(registration: &Registration) -> HttpRequest {
        client_credentials(registration, &endpoint(registration).unwrap()).unwrap()
    }

    fn form(request: &HttpRequest) -> Vec<(String, String)> {
        form_urlencoded::parse(request.body()).into_owned().collect()
    }

    fn with_url(token_url: &str, allow_insecure_http: bool) -> Registration {
        Registration {
            server: ServerLocation::Endpoints {
                token_url: token_url.into(),
                revocation_url: None,
            },
            allow_insecure_http,
            ..basic()
        }
    }

    #[test]
    fn basic_form_encodes_id_and_secret_before_base64() {
        let request = build(&basic());
        let header = request.headers()[AUTHORIZATION].to_str().unwrap();
        let decoded = BASE64_STANDARD
            .decode(header.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(
            String::from_utf8(decoded).unwrap(),
            "cli%3Aent%2F1:s%3Ae%2Fc%2Br%26e%3Dt+%25%C3%BC"
        );
        assert_eq!(request.body(), b"grant_type=client_credentials");
    }

    #[test]
    fn post_sends_id_and_secret_in_the_form_only() {
        let request = build(&registration(ClientAuthentication::SecretPost(SECRET.into())));
        assert_eq!(request.headers().get(AUTHORIZATION), None);
        assert_eq!(
            form(&request),
            [
                ("grant_type".into(), "client_credentials".into()),
                ("client_id".into(), "cli:ent/1".into()),
                ("client_secret".into(), SECRET.to_owned()),
            ]
        );
    }

    #[test]
    fn scopes_are_one_parameter_and_the_others_one_each() {
        let request = build(&Registration {
            scopes: vec!["tools:read".into(), "tools:call".into()],
            audience: Some("urn:tools".into()),
            resource: Some("https://tools.example.com/mcp?a=b&c".into()),
            extra_parameters: [("tenant".into(), "a b".into())].into(),
            ..basic()
        });
        assert_eq!(
            form(&request)[1..],
            [
                ("scope".to_owned(), "tools:read tools:call".to_owned()),
                ("audience".into(), "urn:tools".into()),
                ("resource".into(), "https://tools.example.com/mcp?a=b&c".into()),
                ("tenant".into(), "a b".into()),
            ]
        );
    }

    #[test]
    fn the_credentials_are_marked_as_sensitive() {
        let request = build(&basic());
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        assert_eq!(format!("{:?}", request.headers()[AUTHORIZATION]), "Sensitive");
    }

    #[test]
    fn plain_http_is_refused_unless_allowed() {
        let error = endpoint(&with_url("http://auth.example.com/token", false)).unwrap_err();
        assert!(
            error.message().contains("allowInsecureHttp"),
            "{}",
            error.message()
        );
        assert!(endpoint(&with_url("http://auth.example.com/token", true)).is_ok());
    }

    #[test]
    fn a_url_that_cannot_be_a_token_endpoint_is_refused() {
        for url in [
            "",
            "/token",
            "auth.example.com/token",
            "ftp://auth.example.com/token",
            "https://",
            "https://u:p@auth.example.com/token",
            "https://auth.example.com/token#x",
        ] {
            assert_eq!(
                endpoint(&with_url(url, true)).unwrap_err().reason(),
                "InvalidUrl",
                "{url}"
            );
        }
    }

    #[test]
    fn parameters_with_a_field_of_their_own_are_refused() {
        for name in RESERVED {
            let registration = Registration {
                extra_parameters: [(name.to_owned(), "x".to_owned())].into(),
                ..basic()
            };
            assert_eq!(
                check_extra_parameters(&registration).unwrap_err().reason(),
                "ReservedParameter"
            );
        }
    }
}
