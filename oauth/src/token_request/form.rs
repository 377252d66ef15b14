//! A request, built and not yet sent: from the registration to a form, from form and client authentication to method, headers
//! and body.
//!
//! Built here: of the grants and methods, the oauth2 crate knows the simplest alone. For those it is the opinion that
//! tests compare with (`oracle`).

use base64::prelude::{BASE64_STANDARD, Engine};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request};
use secrecy::{ExposeSecret, SecretString};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::token_request::client_auth::ClientAuth;
use crate::{Error, Registration};

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

const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// What every grant asks for.
#[derive(Clone, Copy)]
pub(crate) struct GrantParameters<'a> {
    pub registration: &'a Registration,
    pub scopes: &'a [String],
    /// RFC 8707. `None`: not sent.
    pub resource: Option<&'a str>,
}

/// The parameters of a request, whoever sends it. No `Debug`: it may hold secrets.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// RFC 6749 section 4.4.2.
    pub fn client_credentials(parameters: &GrantParameters<'_>) -> Self {
        Self::grant("client_credentials").with_common(parameters)
    }

    /// RFC 7523 section 2.1.
    pub fn jwt_bearer(parameters: &GrantParameters<'_>, assertion: &SecretString) -> Self {
        Self::grant("urn:ietf:params:oauth:grant-type:jwt-bearer")
            .with("assertion", assertion.expose_secret())
            .with_common(parameters)
    }

    /// RFC 8693 section 2.1.
    pub fn token_exchange(parameters: &GrantParameters<'_>, subject_token: &SecretString) -> Self {
        let exchange = &parameters.registration.token_exchange;
        let mut form = Self::grant("urn:ietf:params:oauth:grant-type:token-exchange")
            .with("subject_token", subject_token.expose_secret())
            .with("subject_token_type", &exchange.subject_token_type);
        if let Some(kind) = &exchange.requested_token_type {
            form = form.with("requested_token_type", kind);
        }
        form.with_common(parameters)
    }

    /// RFC 7009 section 2.1.
    pub fn revocation(token: &SecretString) -> Self {
        Self(Vec::new())
            .with("token", token.expose_secret())
            .with("token_type_hint", "access_token")
    }

    fn grant(grant_type: &str) -> Self {
        Self(Vec::new()).with("grant_type", grant_type)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    fn with_common(
        mut self,
        GrantParameters {
            registration,
            scopes,
            resource,
        }: &GrantParameters<'_>,
    ) -> Self {
        if !scopes.is_empty() {
            self = self.with("scope", &scopes.join(" "));
        }
        for (name, value) in [
            ("audience", registration.audience.as_deref()),
            ("resource", *resource),
        ] {
            if let Some(value) = value {
                self = self.with(name, value);
            }
        }
        for (name, value) in &registration.extra_parameters {
            self = self.with(name, value);
        }
        self
    }
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

/// `first`, and what of `second` is not among them.
pub(crate) fn union(first: &[String], second: &[String]) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::with_capacity(first.len() + second.len());
    for scope in first.iter().chain(second) {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

pub(crate) fn build(
    form: &Form,
    endpoint: &Url,
    client_auth: &ClientAuth<'_>,
    proof: Option<&str>,
) -> Result<Request<Vec<u8>>, Error> {
    let mut body = Serializer::new(String::new());
    body.extend_pairs(form.0.iter().map(|(name, value)| (name, value)));
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.as_str())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    match client_auth {
        ClientAuth::Id(client_id) => {
            body.extend_pairs(client_id.map(|id| ("client_id", id)));
        }
        ClientAuth::Basic { client_id, secret } => {
            request = request.header(AUTHORIZATION, basic(client_id, secret)?);
        }
        ClientAuth::Post { client_id, secret } => {
            body.append_pair("client_id", client_id)
                .append_pair("client_secret", secret.expose_secret());
        }
        ClientAuth::Assertion { client_id, assertion } => {
            // Optional (RFC 7521 section 4.2), and yet demanded by some.
            body.extend_pairs(client_id.map(|id| ("client_id", id)))
                .append_pair("client_assertion_type", CLIENT_ASSERTION_TYPE)
                .append_pair("client_assertion", assertion.expose_secret());
        }
    }
    if let Some(proof) = proof {
        request = request.header(DPOP, sensitive(proof)?);
    }
    request.body(body.finish().into_bytes()).map_err(unbuilt)
}

/// Name and secret are form-urlencoded before anything else (RFC 6749 section 2.3.1).
fn basic(client_id: &str, secret: &SecretString) -> Result<HeaderValue, Error> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encode(client_id), encode(secret.expose_secret()));
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(both)))
}

/// Kept out of the logs of the HTTP crates.
fn sensitive(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(unbuilt)?;
    value.set_sensitive(true);
    Ok(value)
}

fn unbuilt<E>(_: E) -> Error {
    Error::InvalidUrl {
        problem: "cannot be requested",
    }
}

#[cfg(test)]
mod oracle;

#[cfg(test)]
mod tests {
    use url::form_urlencoded;

    use super::*;
    use crate::ClientAuthentication;

    const SECRET: &str = "s:e/c+r&e=t %ü";
    const ID: &str = "cli:ent/1";

    fn registration() -> Registration {
        Registration {
            audience: Some("urn:tools".into()),
            resource: Some("https://tools.example.com/mcp?a=b&c".into()),
            extra_parameters: [("tenant".into(), "a b".into())].into(),
            ..Registration::new("https://as.example.com/token", ID, ClientAuthentication::None)
        }
    }

    fn parameters<'a>(registration: &'a Registration, scopes: &'a [String]) -> GrantParameters<'a> {
        GrantParameters {
            registration,
            scopes,
            resource: registration.resource.as_deref(),
        }
    }

    fn built(form: &Form, client_auth: &ClientAuth<'_>, proof: Option<&str>) -> Request<Vec<u8>> {
        let endpoint = Url::parse("https://as.example.com/token").unwrap();
        build(form, &endpoint, client_auth, proof).unwrap()
    }

    fn pairs(request: &Request<Vec<u8>>) -> Vec<(String, String)> {
        form_urlencoded::parse(request.body()).into_owned().collect()
    }

    fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.into(), value.into())).into()
    }

    fn ask(client_auth: &ClientAuth<'_>) -> Request<Vec<u8>> {
        built(&Form::grant("x"), client_auth, None)
    }

    const COMMON: [(&str, &str); 4] = [
        ("scope", "tools:read tools:call"),
        ("audience", "urn:tools"),
        ("resource", "https://tools.example.com/mcp?a=b&c"),
        ("tenant", "a b"),
    ];

    fn scopes() -> Vec<String> {
        vec!["tools:read".into(), "tools:call".into()]
    }

    #[test]
    fn basic_form_encodes_id_and_secret_before_base64() {
        let request = ask(&ClientAuth::Basic {
            client_id: ID,
            secret: &SECRET.into(),
        });
        let header = request.headers()[AUTHORIZATION].to_str().unwrap();
        let decoded = BASE64_STANDARD
            .decode(header.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(
            String::from_utf8(decoded).unwrap(),
            "cli%3Aent%2F1:s%3Ae%2Fc%2Br%26e%3Dt+%25%C3%BC"
        );
        assert_eq!(request.body(), b"grant_type=x");
    }

    #[test]
    fn each_identity_says_in_the_form_what_it_must_and_no_more() {
        for (client_auth, expected) in [
            (ClientAuth::Id(None), vec![]),
            (ClientAuth::Id(Some(ID)), owned([("client_id", ID)])),
            (
                ClientAuth::Post {
                    client_id: ID,
                    secret: &SECRET.into(),
                },
                owned([("client_id", ID), ("client_secret", SECRET)]),
            ),
            (
                ClientAuth::Assertion {
                    client_id: Some(ID),
                    assertion: "e.y.j".into(),
                },
                owned([
                    ("client_id", ID),
                    ("client_assertion_type", CLIENT_ASSERTION_TYPE),
                    ("client_assertion", "e.y.j"),
                ]),
            ),
            (
                ClientAuth::Assertion {
                    client_id: None,
                    assertion: "e.y.j".into(),
                },
                owned([
                    ("client_assertion_type", CLIENT_ASSERTION_TYPE),
                    ("client_assertion", "e.y.j"),
                ]),
            ),
        ] {
            let request = ask(&client_auth);
            assert_eq!(request.headers().get(AUTHORIZATION), None);
            assert_eq!(pairs(&request)[1..], expected);
        }
    }

    #[test]
    fn each_grant_asks_for_the_same_with_words_of_its_own() {
        let mut registration = registration();
        registration.token_exchange.requested_token_type = Some("urn:r".into());
        let forms = [
            (
                Form::client_credentials(&parameters(&registration, &scopes())),
                owned([("grant_type", "client_credentials")]),
            ),
            (
                Form::jwt_bearer(&parameters(&registration, &scopes()), &"e.y.j".into()),
                owned([
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", "e.y.j"),
                ]),
            ),
            (
                Form::token_exchange(&parameters(&registration, &scopes()), &"u.s.er".into()),
                owned([
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("subject_token", "u.s.er"),
                    (
                        "subject_token_type",
                        "urn:ietf:params:oauth:token-type:access_token",
                    ),
                    ("requested_token_type", "urn:r"),
                ]),
            ),
        ];
        for (form, own) in forms {
            let expected = [own, owned(COMMON)].concat();
            assert_eq!(pairs(&built(&form, &ClientAuth::Id(None), None)), expected);
        }
    }

    #[test]
    fn what_is_not_set_is_not_sent() {
        let registration = Registration::new("https://as.example.com/token", ID, ClientAuthentication::None);
        let form = Form::client_credentials(&parameters(&registration, &[]));
        assert_eq!(
            built(&form, &ClientAuth::Id(None), None).body(),
            b"grant_type=client_credentials"
        );
    }

    #[test]
    fn a_revocation_says_what_kind_of_token_it_is() {
        let request = built(&Form::revocation(&"t0p".into()), &ClientAuth::Id(Some(ID)), None);
        assert_eq!(
            pairs(&request),
            owned([
                ("token", "t0p"),
                ("token_type_hint", "access_token"),
                ("client_id", ID)
            ])
        );
    }

    #[test]
    fn scopes_are_added_once() {
        let [a, b, c] = ["a", "b", "c"].map(String::from);
        assert_eq!(
            union(&[a.clone(), b.clone(), a.clone()], &[b.clone(), c.clone()]),
            [a, b, c]
        );
    }

    #[test]
    fn credentials_and_proofs_are_marked_as_sensitive() {
        let client_auth = ClientAuth::Basic {
            client_id: ID,
            secret: &SECRET.into(),
        };
        let request = built(&Form::grant("x"), &client_auth, Some("p.r.oof"));
        for name in [AUTHORIZATION, DPOP] {
            assert_eq!(format!("{:?}", request.headers()[name]), "Sensitive");
        }
    }

    #[test]
    fn parameters_with_a_field_of_their_own_are_refused() {
        for name in RESERVED {
            let registration = Registration {
                extra_parameters: [(name.to_owned(), "x".to_owned())].into(),
                ..registration()
            };
            assert_eq!(
                check_extra_parameters(&registration).unwrap_err().reason(),
                "ReservedParameter"
            );
        }
    }
}
