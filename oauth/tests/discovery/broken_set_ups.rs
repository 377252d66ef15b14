//! Ten set-ups that do not work, with what is said of each: by the metadata before the first request, and by the answer to
//! it. The texts stand in `docs/broken-set-ups.md` too, and are compared with it.

use std::sync::Arc;

use mcp_auth_oauth::{
    Algorithm, AssertionAudience, AssertionSigner, Assertions, Client, ClientAuthentication, Grant,
    Registration, Scope, ServerLocation, SigningKey, TokenExchange, TokenRequest, TokenType, TokenUse,
};
use serde_json::{Value, json};

use crate::registration;
use crate::server::{Reply, Server};

const PAGE: &str = include_str!("../../../docs/broken-set-ups.md");

struct SetUp {
    name: &'static str,
    /// Of the server, beside issuer and token endpoint.
    metadata: Value,
    change: fn(&mut Registration),
    exchanges: bool,
    answer: (&'static str, Value),
}

impl SetUp {
    fn token_use(&self) -> TokenUse {
        match self.exchanges {
            true => TokenUse::ServiceAndUsers,
            false => TokenUse::Service,
        }
    }
}

fn error(code: &str) -> Value {
    json!({"error": code})
}

fn key(algorithm: Algorithm) -> SigningKey {
    let rsa = include_str!("../../src/jose/signing_key/testdata/rsa.pem");
    let ec = include_str!("../../src/jose/signing_key/testdata/ec.pem");
    let text = if algorithm == Algorithm::Es256 { ec } else { rsa };
    SigningKey::parse(text, Some(algorithm), None).unwrap()
}

fn by_key(registration: &mut Registration) {
    registration.authentication = ClientAuthentication::PrivateKeyJwt {
        key: key(Algorithm::Rs256),
        audience: AssertionAudience::default(),
    };
}

fn set_ups() -> [SetUp; 10] {
    let nothing: fn(&mut Registration) = |_| {};
    [
        SetUp {
            name: "the grant is not allowed",
            metadata: json!({"grant_types_supported": ["authorization_code", "refresh_token"]}),
            change: nothing,
            exchanges: false,
            answer: ("400 Bad Request", error("unauthorized_client")),
        },
        SetUp {
            name: "the secret goes the wrong way",
            metadata: json!({"token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"]}),
            change: nothing,
            exchanges: false,
            answer: ("401 Unauthorized", error("invalid_client")),
        },
        SetUp {
            name: "the secret is in the form, and the metadata name no methods",
            metadata: json!({}),
            change: |registration| {
                registration.authentication = ClientAuthentication::SecretPost("s3cret".into());
            },
            exchanges: false,
            answer: ("401 Unauthorized", error("invalid_client")),
        },
        SetUp {
            name: "the server does not know the key's algorithm",
            metadata: json!({
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": ["PS256", "ES256"],
            }),
            change: by_key,
            exchanges: false,
            answer: ("401 Unauthorized", error("invalid_client")),
        },
        SetUp {
            name: "the assertion is addressed to the issuer",
            metadata: json!({"token_endpoint_auth_methods_supported": ["private_key_jwt"]}),
            change: by_key,
            exchanges: false,
            answer: ("401 Unauthorized", error("invalid_client")),
        },
        SetUp {
            name: "a scope is misspelt",
            metadata: json!({"scopes_supported": ["tools.call", "tools.list"]}),
            change: |registration| registration.scopes = vec![Scope::new("tools:call".into())],
            exchanges: false,
            answer: ("400 Bad Request", error("invalid_scope")),
        },
        SetUp {
            name: "the server knows no resource parameter",
            metadata: json!({"grant_types_supported": ["client_credentials"]}),
            change: |registration| registration.resource = Some("https://tools.company.com/mcp".into()),
            exchanges: false,
            answer: ("400 Bad Request", error("invalid_target")),
        },
        SetUp {
            name: "users' tokens cannot be exchanged",
            metadata: json!({"grant_types_supported": ["client_credentials"]}),
            change: |registration| registration.token_exchange = TokenExchange::default(),
            exchanges: true,
            answer: ("400 Bad Request", error("unsupported_grant_type")),
        },
        SetUp {
            name: "DPoP by an algorithm that the server does not take",
            metadata: json!({"dpop_signing_alg_values_supported": ["EdDSA"]}),
            change: |registration| registration.token_type = TokenType::DPoP,
            exchanges: false,
            answer: ("400 Bad Request", error("invalid_dpop_proof")),
        },
        SetUp {
            name: "the grant jwt-bearer is not there",
            metadata: json!({"grant_types_supported": ["client_credentials"]}),
            change: |registration| {
                let signer = AssertionSigner {
                    key: key(Algorithm::Es256),
                    issuer: "client".into(),
                    subject: "integration@company.com".into(),
                    audience: AssertionAudience::default(),
                    claims: [].into(),
                };
                registration.authentication = ClientAuthentication::None;
                registration.grant = Grant::JwtBearer(Assertions::Signed(Arc::new(signer)));
            },
            exchanges: false,
            answer: ("400 Bad Request", error("unsupported_grant_type")),
        },
    ]
}

#[tokio::test]
async fn ten_set_ups_that_do_not_work_are_told_by_the_metadata_and_by_the_answer() {
    let mut page = String::new();
    for set_up in set_ups() {
        let server = Server::start().await;
        let mut metadata = server.metadata(&server.url(""));
        for (name, value) in set_up.metadata.as_object().unwrap() {
            metadata[name] = value.clone();
        }
        server.json("/.well-known/oauth-authorization-server", metadata);
        let (status, body) = &set_up.answer;
        server.set("/token", Reply::Raw(status, String::new(), body.to_string()));
        let mut registration = registration(ServerLocation::Issuer(server.url("")));
        (set_up.change)(&mut registration);
        let client = Client::new(registration).unwrap();
        assert_eq!(client.preflight(set_up.token_use()), [], "nothing is known yet");
        let outcome = match set_up.exchanges {
            true => client.exchange_token(&"us3r".into()).await,
            false => client.request_token(&TokenRequest::default()).await,
        };
        let answered = outcome.unwrap_err().message();
        let problems = client.preflight(set_up.token_use());
        let foretold: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let foretold = match foretold.is_empty() {
            true => "nothing".to_owned(),
            false => foretold.join("; "),
        };
        page += &format!("| {} | {foretold} | {answered} |\n", set_up.name);
    }
    assert!(
        PAGE.contains(&page),
        "docs/broken-set-ups.md has other texts than these:\n{page}"
    );
}

/// Metadata are told and never enforced: those that say too little keep nobody from a token.
#[tokio::test]
async fn a_server_whose_metadata_speak_against_it_issues_its_token_all_the_same() {
    let server = Server::start().await;
    let mut metadata = server.metadata(&server.url(""));
    metadata["grant_types_supported"] = json!(["authorization_code"]);
    metadata["token_endpoint_auth_methods_supported"] = json!(["none"]);
    server.json("/.well-known/oauth-authorization-server", metadata);
    server.json(
        "/token",
        json!({"access_token": "t", "token_type": "Bearer", "expires_in": 60}),
    );
    let client = Client::new(registration(ServerLocation::Issuer(server.url("")))).unwrap();
    client.request_token(&TokenRequest::default()).await.unwrap();
    assert_eq!(client.preflight(TokenUse::Service).len(), 2);
}

#[tokio::test]
async fn where_only_users_have_tokens_the_grant_of_the_service_is_not_missed() {
    let server = Server::start().await;
    let mut metadata = server.metadata(&server.url(""));
    metadata["grant_types_supported"] = json!(["authorization_code"]);
    server.json("/.well-known/oauth-authorization-server", metadata);
    let client = Client::new(registration(ServerLocation::Issuer(server.url("")))).unwrap();
    client.discover().await.unwrap();
    let told = |token_use| {
        let problems = client.preflight(token_use);
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        told.join("; ")
    };
    let exchange = "and not urn:ietf:params:oauth:grant-type:token-exchange";
    assert!(
        told(TokenUse::Users).contains(exchange) && !told(TokenUse::Users).contains("client_credentials")
    );
    assert!(told(TokenUse::ServiceAndUsers).contains("client_credentials"));
    assert!(!told(TokenUse::Service).contains(exchange));
}

#[tokio::test]
async fn what_metadata_say_in_a_wrong_form_or_not_at_all_speaks_against_nothing() {
    for listed in [
        json!(null),
        json!([]),
        json!("client_credentials"),
        json!([7, {}]),
        json!(["a b\u{7}"]),
    ] {
        let server = Server::start().await;
        let mut metadata = server.metadata(&server.url(""));
        for field in [
            "grant_types_supported",
            "token_endpoint_auth_methods_supported",
            "token_endpoint_auth_signing_alg_values_supported",
            "scopes_supported",
            "dpop_signing_alg_values_supported",
        ] {
            metadata[field] = listed.clone();
        }
        server.json("/.well-known/oauth-authorization-server", metadata);
        let mut registration = registration(ServerLocation::Issuer(server.url("")));
        registration.scopes = vec![Scope::new("a".into())];
        let client = Client::new(registration).unwrap();
        let _ = client.request_token(&TokenRequest::default()).await;
        assert!(client.discovered_server().is_some());
        assert_eq!(client.preflight(TokenUse::ServiceAndUsers), [], "{listed}");
    }
}
