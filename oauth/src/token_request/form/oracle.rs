//! An independent opinion: what the oauth2 crate makes of a registration, for the one grant and the two methods that
//! it knows, is what is made here.

use std::collections::BTreeMap;
use std::fmt;

use oauth2::basic::BasicClient;
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RequestTokenError, Scope, TokenUrl,
};
use proptest::prelude::*;

use super::*;
use crate::ClientAuthentication;

const ENDPOINT: &str = "https://as.example.com/token";

/// Carries a built request out of the crate, by the only way there is: as the error of an HTTP client.
#[derive(Debug)]
struct Built(Box<HttpRequest>);

impl fmt::Display for Built {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the request is built")
    }
}

impl std::error::Error for Built {}

fn theirs(
    client_id: &str,
    secret: &str,
    scopes: &[String],
    resource: &str,
    auth_type: AuthType,
) -> HttpRequest {
    let client = BasicClient::new(ClientId::new(client_id.to_owned()))
        .set_client_secret(ClientSecret::new(secret.to_owned()))
        .set_auth_type(auth_type)
        .set_token_uri(TokenUrl::new(ENDPOINT.to_owned()).unwrap());
    let request = client
        .exchange_client_credentials()
        .add_scopes(scopes.iter().cloned().map(Scope::new))
        .add_extra_param("resource", resource);
    let pass = |request| Err::<HttpResponse, _>(Built(Box::new(request)));
    match request.request(&pass) {
        Err(RequestTokenError::Request(Built(request))) => *request,
        other => panic!("not built: {}", other.is_ok()),
    }
}

fn pairs(body: &[u8]) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

proptest! {
    #[test]
    fn the_standard_request_is_the_one_that_the_oauth2_crate_builds(
        client_id in "[ -~äß]{1,20}", secret in "[ -~é€]{1,40}",
        scopes in proptest::collection::vec("[a-z:/.]{1,9}", 0..4), resource in "https://[a-z]{1,9}/[ -~]{0,9}",
        basic: bool,
    ) {
        let registration = Registration::new(ENDPOINT, client_id.clone(), ClientAuthentication::None);
        let parameters = GrantParameters { registration: &registration, scopes: &scopes, resource: Some(&resource) };
        let held = SecretString::from(secret.clone());
        let client_auth = match basic {
            true => ClientAuth::Basic { client_id: &client_id, secret: &held },
            false => ClientAuth::Post { client_id: &client_id, secret: &held },
        };
        let endpoint = Url::parse(ENDPOINT).unwrap();
        let ours = build(&Form::client_credentials(&parameters), &endpoint, &client_auth, None).unwrap();
        let auth_type = if basic { AuthType::BasicAuth } else { AuthType::RequestBody };
        let theirs = theirs(&client_id, &secret, &scopes, &resource, auth_type);
        prop_assert_eq!(pairs(ours.body()), pairs(theirs.body()));
        for header in [AUTHORIZATION, CONTENT_TYPE] {
            prop_assert_eq!(ours.headers().get(&header), theirs.headers().get(&header));
        }
    }
}
