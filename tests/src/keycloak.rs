//! The second real OAuth server that the script around the tests started (Keycloak), and what tests turn
//! there.

use reqwest::Client;
use serde_json::{Value, json};

use crate::registration::{Grant, Method, Registration};
use crate::resource::merge;
use crate::{authority, seen, setting};

/// The identity provider that the realm trusts to name ServiceAccounts: see realm.json beside the server.
pub const CLUSTER: &str = "cluster";
const PASSWORD: &str = "al1ces-and-b0bs";

/// Whether it runs: a developer may go without it.
pub fn is_there() -> bool {
    setting("MCPAUTH_TEST_KEYCLOAK") != "none"
}

pub fn issuer() -> String {
    setting("MCPAUTH_TEST_KEYCLOAK")
}

/// Registers a client, or changes what it is registered with.
pub async fn register(registration: &Registration) {
    let Registration { id, resource, .. } = registration;
    let mut client = json!({
        "clientId": id,
        "publicClient": false,
        "serviceAccountsEnabled": true,
        "standardFlowEnabled": false,
        "attributes": {
            "dpop.bound.access.tokens": registration.dpop_bound.to_string(),
            "tls.client.certificate.bound.access.tokens": registration.certificate_bound.to_string(),
        },
        "protocolMappers": [audience(json!({"included.custom.audience": resource}))],
    });
    merge(&mut client, method(&registration.method).await);
    let grant = match registration.grant {
        Grant::ClientCredentials => json!({}),
        Grant::JwtBearer => json!({
            "oauth2.jwt.authorization.grant.enabled": "true",
            "oauth2.jwt.authorization.grant.idp": CLUSTER,
        }),
        Grant::TokenExchange => json!({"standard.token.exchange.enabled": "true"}),
    };
    merge(&mut client, json!({"attributes": grant}));
    put_client(client).await;
}

/// How a client authenticated and what it asked for, the newest first: `type`, and `details` with
/// `client_auth_method` and `grant_type`.
pub async fn events(client: &str) -> Vec<Value> {
    let answer = administer(
        reqwest::Method::GET,
        &format!("/events?max=100&client={client}"),
        json!(null),
    )
    .await;
    answer.as_array().cloned().expect("a list")
}

/// Makes an identity provider (`oidc`, `spiffe`) whose assertions clients and users can be known by.
pub async fn identity_provider(alias: &str, kind: &str, config: Value) {
    let provider = json!({"alias": alias, "providerId": kind, "enabled": true, "config": config});
    administer(reqwest::Method::POST, "/identity-provider/instances", provider).await;
}

/// Changes an attribute of a registered client.
pub async fn set_attribute(client: &str, name: &str, value: &str) {
    let mut found = find_client(client).await;
    found["attributes"][name] = json!(value);
    put_client(found).await;
}

/// How many requests of a client it has refused.
pub async fn refusals(client: &str) -> usize {
    let events = events(client).await;
    let is_refusal = |event: &&Value| {
        event["type"]
            .as_str()
            .is_some_and(|type_| type_.ends_with("_ERROR"))
    };
    events.iter().filter(is_refusal).count()
}

/// Makes a user who is the ServiceAccount with this subject, so that its assertions are a grant.
pub async fn trust(subject: &str) {
    trust_at(CLUSTER, subject).await;
}

/// The same for a subject of another identity provider.
pub async fn trust_at(identity_provider: &str, subject: &str) {
    let identity = json!([{"identityProvider": identity_provider, "userId": subject, "userName": subject}]);
    user(
        &subject.replace(':', "-"),
        json!({"federatedIdentities": identity}),
    )
    .await;
}

/// An access token of a user, as a front end would have it, that `exchanger` may exchange.
pub async fn user_token(name: &str, exchanger: &str) -> String {
    let front_end = format!("front-end-of-{exchanger}");
    user(
        name,
        json!({"credentials": [{"type": "password", "value": PASSWORD, "temporary": false}]}),
    )
    .await;
    put_client(json!({
        "clientId": front_end,
        "publicClient": true,
        "directAccessGrantsEnabled": true,
        "protocolMappers": [audience(json!({"included.client.audience": exchanger}))],
    }))
    .await;
    let form = [
        ("grant_type", "password"),
        ("client_id", &front_end),
        ("username", name),
        ("password", PASSWORD),
    ];
    token(&issuer(), &form).await
}

async fn method(method: &Method) -> Value {
    match method {
        Method::SecretBasic(secret) => with_secret(secret, "client_secret_basic"),
        Method::SecretPost(secret) => with_secret(secret, "client_secret_post"),
        Method::PrivateKeyJwt(key) => {
            let keys = json!({"keys": [key.jwk().await]}).to_string();
            let attributes = json!({
                "use.jwks.string": "true",
                "jwks.string": keys,
                "token.endpoint.auth.signing.alg": key.algorithm,
            });
            json!({"clientAuthenticatorType": "client-jwt", "attributes": attributes})
        }
        Method::PublishedKeys { jwks_uri, algorithm } => {
            let attributes = json!({
                "use.jwks.url": "true",
                "jwks.url": jwks_uri,
                "token.endpoint.auth.signing.alg": algorithm,
            });
            json!({"clientAuthenticatorType": "client-jwt", "attributes": attributes})
        }
        Method::Tls { subject } => {
            json!({"clientAuthenticatorType": "client-x509", "attributes": {"x509.subjectdn": subject}})
        }
        Method::SelfSignedTls { .. } => panic!("this server takes certificates of an authority only"),
        Method::Federated {
            identity_provider,
            subject,
        } => json!({
            "clientAuthenticatorType": "federated-jwt",
            "attributes": {"jwt.credential.issuer": identity_provider, "jwt.credential.sub": subject},
        }),
        Method::None => panic!("this server wants every client with a grant of its own to authenticate"),
    }
}

fn with_secret(secret: &str, method: &str) -> Value {
    seen::note(secret);
    json!({
        "clientAuthenticatorType": "client-secret",
        "secret": secret,
        "attributes": {"client.secret.authentication.allowed.method": method},
    })
}

/// What puts an audience into the tokens of a client.
fn audience(included: Value) -> Value {
    let mut config = json!({"access.token.claim": "true"});
    merge(&mut config, included);
    json!({
        "name": "audience",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": config,
    })
}

/// `null` where there is none.
async fn find_client(id: &str) -> Value {
    let path = format!("/clients?clientId={id}");
    let mut found = administer(reqwest::Method::GET, &path, json!(null)).await;
    found.get_mut(0).map(Value::take).unwrap_or_default()
}

async fn put_client(client: Value) {
    let existing = find_client(client["clientId"].as_str().expect("an identifier")).await;
    match existing["id"].as_str() {
        None => administer(reqwest::Method::POST, "/clients", client).await,
        Some(existing_id) => {
            administer(reqwest::Method::PUT, &format!("/clients/{existing_id}"), client).await
        }
    };
}

/// A user who can log in: without name and address Keycloak would ask for them first.
async fn user(name: &str, more: Value) {
    // Tests run side by side, and each sees to it that its users are there: one at a time.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let search_results = administer(
        reqwest::Method::GET,
        &format!("/users?exact=true&username={name}"),
        json!(null),
    )
    .await;
    if search_results[0]["id"].is_string() {
        return;
    }
    let mut user = json!({
        "username": name,
        "enabled": true,
        "email": format!("{name}@example.com"),
        "emailVerified": true,
        "firstName": name,
        "lastName": "of the tests",
    });
    merge(&mut user, more);
    administer(reqwest::Method::POST, "/users", user).await;
}

async fn administer(method: reqwest::Method, path: &str, body: Value) -> Value {
    let realm = issuer();
    let (server, _) = realm.split_once("/realms/").expect("an issuer of Keycloak");
    // The administrator's tokens are short-lived.
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "tests"),
        ("client_secret", &setting("MCPAUTH_TEST_KEYCLOAK_SECRET")),
    ];
    let token = token(&format!("{server}/realms/master"), &form).await;
    let mut request = client()
        .request(method, format!("{server}/admin/realms/mcp{path}"))
        .bearer_auth(token);
    if !body.is_null() {
        request = request.json(&body);
    }
    let response = request.send().await.expect("Keycloak is there");
    let status = response.status();
    let answer = response.text().await.expect("an answer");
    assert!(status.is_success(), "{path}: {status} {answer}");
    serde_json::from_str(&answer).unwrap_or_default()
}

async fn token(realm: &str, form: &[(&str, &str)]) -> String {
    let url = format!("{realm}/protocol/openid-connect/token");
    let response = client()
        .post(url)
        .form(form)
        .send()
        .await
        .expect("Keycloak is there");
    let answer: Value = response.json().await.expect("JSON");
    let token = answer["access_token"].as_str().unwrap_or_else(|| {
        panic!("{}: {}", answer["error"], answer["error_description"]);
    });
    seen::note(token);
    token.to_owned()
}

fn client() -> Client {
    let authority = reqwest::Certificate::from_pem(authority::bundle().as_bytes()).expect("PEM");
    Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .build()
        .expect("a client")
}
