//! The requests that this crate builds, compared with the examples of the standards and with what the oauth2
//! crate builds where both can.

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use oauth2::{ClientSecret, HttpRequest, HttpResponse};
use parking_lot::Mutex;
use proptest::prelude::*;
use url::form_urlencoded;

use super::*;
use crate::ClientAuthentication;
use crate::token_request::endpoint_client::complete;

const ENDPOINT: &str = "https://as.example.com/token";
const ID: &str = "cli:ent/1";

fn registration() -> Registration {
    Registration {
        audience: Some("urn:tools".into()),
        resource: Some("https://tools.example.com/mcp?a=b&c".into()),
        extra_parameters: [("tenant".into(), "a b".into())].into(),
        ..Registration::new(ENDPOINT, ID, ClientAuthentication::None)
    }
}

fn parameters<'a>(registration: &'a Registration, scopes: &'a [Scope]) -> GrantParameters<'a> {
    GrantParameters {
        registration,
        scopes,
        audience: registration.audience.as_deref(),
        resource: registration.resource.as_deref(),
        extra_parameters: &registration.extra_parameters,
    }
}

fn scopes() -> Vec<Scope> {
    ["tools:read", "tools:call"]
        .map(|name| Scope::new(name.into()))
        .into()
}

/// The request as it goes to the endpoint.
fn built(grant: &GrantRequest, client_auth: &ClientAuth<'_>) -> HttpRequest {
    let endpoint = Url::parse(ENDPOINT).unwrap();
    let sent = Mutex::new(None);
    let http = |request: HttpRequest| {
        *sent.lock() = Some(request);
        std::future::ready(Ok::<_, Error>(HttpResponse::new(
            br#"{"access_token":"t0p"}"#.into(),
        )))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let response = runtime
        .block_on(grant.send(&endpoint, client_auth, &http))
        .unwrap();
    assert_eq!(response.access_token.secret(), "t0p");
    complete(sent.into_inner().unwrap(), client_auth, None).unwrap()
}

fn pairs(request: &HttpRequest) -> Vec<(String, String)> {
    form_urlencoded::parse(request.body()).into_owned().collect()
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.into(), value.into())).into()
}

/// The parameters of an example, which standards wrap for reading.
fn example(body: &str) -> BTreeMap<String, String> {
    let body: String = body.split_whitespace().collect();
    form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn sent(request: &HttpRequest) -> BTreeMap<String, String> {
    pairs(request).into_iter().collect()
}

const COMMON: [(&str, &str); 4] = [
    ("scope", "tools:read tools:call"),
    ("audience", "urn:tools"),
    ("resource", "https://tools.example.com/mcp?a=b&c"),
    ("tenant", "a b"),
];

#[test]
fn each_grant_asks_for_the_same_with_words_of_its_own() {
    let mut registration = registration();
    registration.token_exchange.requested_token_type = Some("urn:r".into());
    let forms = [
        (
            GrantRequest::client_credentials(&parameters(&registration, &scopes())),
            owned([("grant_type", "client_credentials")]),
        ),
        (
            GrantRequest::jwt_bearer(&parameters(&registration, &scopes()), &"e.y.j".into()),
            owned([
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", "e.y.j"),
            ]),
        ),
        (
            GrantRequest::token_exchange(&parameters(&registration, &scopes()), &"u.s.er".into()),
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
        assert_eq!(pairs(&built(&form, &ClientAuth::Id(None))), expected);
    }
}

#[test]
fn what_is_not_set_is_not_sent() {
    let registration = Registration::new("https://as.example.com/token", ID, ClientAuthentication::None);
    let form = GrantRequest::client_credentials(&parameters(&registration, &[]));
    assert_eq!(
        built(&form, &ClientAuth::Id(None)).body(),
        b"grant_type=client_credentials"
    );
}

#[test]
fn client_credentials_are_as_in_rfc_6749_section_4_4_2() {
    let registration = Registration::new(ENDPOINT, "s6BhdRkqt3", ClientAuthentication::None);
    let grant = GrantRequest::client_credentials(&parameters(&registration, &[]));
    let client_auth = ClientAuth::Basic {
        client_id: &ClientId::new("s6BhdRkqt3".into()),
        secret: &ClientSecret::new("gX1fBat3bV".into()),
    };
    let request = built(&grant, &client_auth);
    assert_eq!(
        request.headers()[AUTHORIZATION],
        "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"
    );
    assert_eq!(
        request.headers()[CONTENT_TYPE],
        "application/x-www-form-urlencoded"
    );
    assert_eq!(request.body(), b"grant_type=client_credentials");
}

/// Where the standard omits the middle of the assertion's parts, nothing stands here.
#[test]
fn an_assertion_as_grant_is_as_in_rfc_7523_section_2_1() {
    let registration = Registration::new(ENDPOINT, ID, ClientAuthentication::None);
    let assertion = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjE2In0.eyJpc3Mi.J9l-ZhwP".into();
    let grant = GrantRequest::jwt_bearer(&parameters(&registration, &[]), &assertion);
    let request = built(&grant, &ClientAuth::Id(None));
    let expected = example(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer
         &assertion=eyJhbGciOiJFUzI1NiIsImtpZCI6IjE2In0.
         eyJpc3Mi.
         J9l-ZhwP",
    );
    assert_eq!(sent(&request), expected);
}

/// The standard shows it beside an authorization code, which this client has no use for; the parts of the
/// assertion are cut as above.
#[test]
fn an_assertion_as_client_authentication_is_as_in_rfc_7523_section_2_2() {
    let registration = Registration::new(ENDPOINT, ID, ClientAuthentication::None);
    let grant = GrantRequest::client_credentials(&parameters(&registration, &[]));
    let client_auth = ClientAuth::Assertion {
        kind: crate::ClientAssertionType::JwtBearer,
        client_id: None,
        assertion: "eyJhbGciOiJSUzI1NiIsImtpZCI6IjIyIn0.eyJpc3Mi.cC4hiUPo".into(),
    };
    let expected = example(
        "grant_type=client_credentials&
         client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A
         client-assertion-type%3Ajwt-bearer&
         client_assertion=eyJhbGciOiJSUzI1NiIsImtpZCI6IjIyIn0.
         eyJpc3Mi.
         cC4hiUPo",
    );
    assert_eq!(sent(&built(&grant, &client_auth)), expected);
}

#[test]
fn a_token_exchange_is_as_in_rfc_8693_section_2_3() {
    let registration = Registration {
        resource: Some("https://backend.example.com/api".into()),
        ..Registration::new(ENDPOINT, "rs08", ClientAuthentication::None)
    };
    let subject_token = "accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC".into();
    let grant = GrantRequest::token_exchange(&parameters(&registration, &[]), &subject_token);
    let client_auth = ClientAuth::Basic {
        client_id: &ClientId::new("rs08".into()),
        secret: &ClientSecret::new("long-secure-random-secret".into()),
    };
    let request = built(&grant, &client_auth);
    assert_eq!(
        request.headers()[AUTHORIZATION],
        "Basic cnMwODpsb25nLXNlY3VyZS1yYW5kb20tc2VjcmV0"
    );
    let expected = example(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange
         &resource=https%3A%2F%2Fbackend.example.com%2Fapi
         &subject_token=accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC
         &subject_token_type=
         urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token",
    );
    assert_eq!(sent(&request), expected);
}

proptest! {
    /// An independent opinion on what this crate builds for the grants that the oauth2 crate does not know.
    #[test]
    fn the_client_authenticates_as_it_does_in_requests_that_the_oauth2_crate_builds(
        client_id in "[ -~äß]{1,20}", secret in "[ -~é€]{1,40}",
        scopes in proptest::collection::vec("[a-z:/.]{1,9}", 0..4),
        resource in "https://[a-z]{1,9}/[ -~]{0,9}",
        basic: bool,
    ) {
        let registration = Registration::new(ENDPOINT, client_id.clone(), ClientAuthentication::None);
        let scopes: Vec<_> = scopes.into_iter().map(Scope::new).collect();
        let parameters = GrantParameters {
            registration: &registration,
            scopes: &scopes,
            audience: None,
            resource: Some(&resource),
            extra_parameters: &registration.extra_parameters,
        };
        let client_id = ClientId::new(client_id);
        let secret = ClientSecret::new(secret);
        let client_auth = match basic {
            true => ClientAuth::Basic { client_id: &client_id, secret: &secret },
            false => ClientAuth::Post { client_id: &client_id, secret: &secret },
        };
        let theirs = built(&GrantRequest::client_credentials(&parameters), &client_auth);
        let ours = GrantRequest::Extension(parameters.add_to(Form::grant("client_credentials")));
        let ours = built(&ours, &client_auth);
        prop_assert_eq!(sent(&ours), sent(&theirs));
        prop_assert_eq!(ours.headers(), theirs.headers());
        prop_assert_eq!((ours.method(), ours.uri()), (theirs.method(), theirs.uri()));
    }
}
