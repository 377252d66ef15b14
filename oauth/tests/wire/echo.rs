//! A server that says again all it was sent: nothing of it is told, whatever the method and the grant.

use mcp_auth_oauth::{
    AssertionAudience, Assertions, Client, ClientAssertionType, ClientAuthentication, ClientSecret,
    ClientSecrets, Error, Grant, Registration, SigningKey, TokenRequest, TokenType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server;

const FIRST: &str = "s:e/c+r&e=t %-long-enough";
const ALTERNATE: &str = "0ther:s/e+c&r=e t%";
const ASSERTION: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjbGllbnQifQ.c2lnbmF0dXJl";
const SUBJECT: &str = "us3r's own/token+value";

/// Parameters and headers whose values are no secrets.
const INNOCENT: [&str; 13] = [
    "grant_type",
    "client_id",
    "client_assertion_type",
    "subject_token_type",
    "token_type_hint",
    "host",
    "accept",
    "accept-encoding",
    "user-agent",
    "content-type",
    "content-length",
    "resource",
    "scope",
];

/// Answers each of the requests with what it holds, one secret at a time, and gives the secrets that it saw.
async fn echo(listener: TcpListener, requests: usize, turn: usize) -> Vec<String> {
    let mut secrets = Vec::new();
    for _ in 0..requests {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 64 * 1024];
        let mut length = 0;
        let request = loop {
            length += stream.read(&mut bytes[length..]).await.unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let expected = server::header(head, "content-length").unwrap();
                if body.len() == expected.parse::<usize>().unwrap() {
                    break text.to_owned();
                }
            }
        };
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let raw = body.split('&').filter_map(|pair| pair.split_once('='));
        let decoded: Vec<_> = url::form_urlencoded::parse(body.as_bytes())
            .into_owned()
            .collect();
        let decoded = decoded
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let seen: Vec<_> = headers
            .chain(raw)
            .chain(decoded)
            .filter(|(name, _)| !INNOCENT.contains(name))
            .map(|(_, value)| value.trim_start_matches("Basic ").to_owned())
            .collect();
        let echoed = &seen[turn % seen.len()];
        let words = serde_json::json!({
            "error": if turn.is_multiple_of(2) { "invalid_client" } else { echoed },
            "error_description": format!("you sent {echoed}, really"),
        });
        let answer = server::json("400 Bad Request", &words.to_string());
        stream.write_all(&answer).await.unwrap();
        stream.shutdown().await.unwrap();
        secrets.extend(seen);
    }
    secrets
}

fn methods() -> Vec<ClientAuthentication> {
    let secrets = || ClientSecrets {
        first: ClientSecret::new(FIRST.into()),
        alternate: Some(ClientSecret::new(ALTERNATE.into())),
    };
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    vec![
        ClientAuthentication::None,
        ClientAuthentication::SecretBasic(secrets()),
        ClientAuthentication::SecretPost(secrets()),
        ClientAuthentication::PrivateKeyJwt {
            key: SigningKey::parse(&pem, None, None).unwrap(),
            audience: AssertionAudience::default(),
        },
        ClientAuthentication::Assertion(
            Assertions::Given(ASSERTION.into()),
            ClientAssertionType::JwtBearer,
        ),
    ]
}

async fn ask(client: &Client, exchange: bool) -> Error {
    if exchange {
        client.exchange_token(&SUBJECT.into()).await.unwrap_err()
    } else {
        client.request_token(&TokenRequest::default()).await.unwrap_err()
    }
}

#[tokio::test]
async fn nothing_that_was_sent_is_told_whatever_the_method_and_the_grant() {
    server::install_provider();
    let mut checked = 0;
    for authentication in methods() {
        for (grant, exchange) in [
            (Grant::ClientCredentials, false),
            (Grant::JwtBearer(Assertions::Given(ASSERTION.into())), false),
            (Grant::ClientCredentials, true),
        ] {
            for turn in 0..8 {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}/token", listener.local_addr().unwrap());
                let client = Client::new(Registration {
                    allow_insecure_http: true,
                    token_type: TokenType::DPoP,
                    grant: grant.clone(),
                    ..Registration::new(url, "client", authentication.clone())
                })
                .unwrap();
                let two = matches!(
                    authentication,
                    ClientAuthentication::SecretBasic(_) | ClientAuthentication::SecretPost(_)
                );
                let requests = if two && turn % 2 == 0 { 2 } else { 1 };
                let (error, secrets) = tokio::join!(ask(&client, exchange), echo(listener, requests, turn));
                let seen = format!(
                    "{error:?} {error} {} {} {client:?}",
                    error.message(),
                    error.code()
                );
                assert!(!secrets.is_empty());
                for secret in secrets {
                    assert!(!seen.contains(&secret), "{authentication:?}: {seen}");
                    checked += 1;
                }
                assert!(!seen.contains("you sent"), "{seen}");
            }
        }
    }
    assert!(checked > 300, "{checked}");
}
