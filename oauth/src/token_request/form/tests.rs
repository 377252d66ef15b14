//! What a form says, and how the client shows who it is.

use super::*;
use crate::ClientAuthentication;
use crate::token_request::endpoint_client::complete;

const SECRET: &str = "s:e/c+r&e=t %ü";
const ID: &str = "cli:ent/1";

fn id() -> ClientId {
    ClientId::new(ID.into())
}

fn secret() -> ClientSecret {
    ClientSecret::new(SECRET.into())
}

fn registration() -> Registration {
    Registration {
        audience: Some("urn:tools".into()),
        resource: Some("https://tools.example.com/mcp?a=b&c".into()),
        extra_parameters: [("tenant".into(), "a b".into())].into(),
        ..Registration::new("https://as.example.com/token", ID, ClientAuthentication::None)
    }
}

fn built(form: &Form, client_auth: &ClientAuth<'_>, proof: Option<&str>) -> HttpRequest {
    let endpoint = Url::parse("https://as.example.com/token").unwrap();
    let request = build(form, &endpoint, client_auth).unwrap();
    complete(request, client_auth, proof).unwrap()
}

fn pairs(request: &HttpRequest) -> Vec<(String, String)> {
    form_urlencoded::parse(request.body()).into_owned().collect()
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.into(), value.into())).into()
}

fn ask(client_auth: &ClientAuth<'_>) -> HttpRequest {
    built(&Form::grant("x"), client_auth, None)
}

#[test]
fn basic_form_encodes_id_and_secret_before_base64() {
    let request = ask(&ClientAuth::Basic {
        client_id: &id(),
        secret: &secret(),
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
        (ClientAuth::Id(Some(&id())), owned([("client_id", ID)])),
        (
            ClientAuth::Post {
                client_id: &id(),
                secret: &secret(),
            },
            owned([("client_id", ID), ("client_secret", SECRET)]),
        ),
        (
            ClientAuth::Assertion {
                kind: crate::ClientAssertionType::JwtBearer,
                client_id: Some(&id()),
                assertion: "e.y.j".into(),
            },
            owned([
                ("client_id", ID),
                (
                    "client_assertion_type",
                    crate::ClientAssertionType::JwtBearer.as_str(),
                ),
                ("client_assertion", "e.y.j"),
            ]),
        ),
        (
            ClientAuth::Assertion {
                kind: crate::ClientAssertionType::JwtBearer,
                client_id: None,
                assertion: "e.y.j".into(),
            },
            owned([
                (
                    "client_assertion_type",
                    crate::ClientAssertionType::JwtBearer.as_str(),
                ),
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
fn a_revocation_says_what_kind_of_token_it_is() {
    let request = built(
        &Form::revocation(&AccessToken::new("t0p".into())),
        &ClientAuth::Id(Some(&id())),
        None,
    );
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
    let [a, b, c] = ["a", "b", "c"].map(|name| Scope::new(name.into()));
    assert_eq!(
        union(&[a.clone(), b.clone(), a.clone()], &[b.clone(), c.clone()]),
        [a, b, c]
    );
}

#[test]
fn credentials_and_proofs_are_marked_as_sensitive() {
    let client_auth = ClientAuth::Basic {
        client_id: &id(),
        secret: &secret(),
    };
    let request = built(&Form::grant("x"), &client_auth, Some("p.r.oof"));
    for name in ["authorization", "dpop"] {
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
