//! `mcp-auth exec` on one machine: what it shares with the operator, each at a real authorization server, up to a call
//! that arrives at the MCP server with the token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcp_auth_tests::authority::certificate;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::one_machine::{OneMachine, free_port};
use mcp_auth_tests::recorder::{Call, Recorder};
use mcp_auth_tests::registration::{Grant, Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::{Granted, Server};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::{jwt, oauth, seen, setting};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

const SECRET: &str = "0ne-machine-client-s3cret";

fn by_secret() -> Value {
    json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}})
}

fn machine() -> OneMachine {
    let _ = rustls::crypto::ring::default_provider().install_default();
    OneMachine::new()
}

/// The resource of the server `tools` at this URL, found by its issuer.
fn tools(url: &str, client: &str, authentication: Value, more: Value) -> Value {
    let spec = Server::OidcProvider.oauth2(client, authentication);
    let mut tools = resource("tools", "tools", spec);
    let plain = url.starts_with("http://");
    merge(
        &mut tools["spec"]["server"],
        json!({"url": url, "allowInsecureHttp": plain}),
    );
    merge(&mut tools["spec"], more);
    tools
}

/// Registers the client, starts LiteLLM, and waits for its call at the MCP server.
async fn run(
    machine: &mut OneMachine,
    server: &Recorder,
    registration: Registration,
    authentication: Value,
    more: Value,
) -> Call {
    let registration = Registration {
        resource: server.url.clone(),
        ..registration
    };
    Server::OidcProvider.register(&registration).await;
    machine.apply(&tools(&server.url, &registration.id, authentication, more));
    machine.start();
    assert!(machine.called().await.contains("result"), "{}", machine.log());
    let scheme = if registration.dpop_bound { "DPoP" } else { "Bearer" };
    let call = server.last(scheme).await;
    let claims = jwt::claims(&token(&call));
    assert!(jwt::is_for(&claims, &server.url), "{claims}");
    assert_eq!(claims["iss"], oauth::issuer());
    let granted = Server::OidcProvider.granted(&registration.id).await;
    let expected = Granted {
        method: Server::OidcProvider.name_of(&registration.method).to_owned(),
        grant: registration.grant.name().to_owned(),
    };
    assert_eq!(granted, [expected], "one token request does");
    call
}

fn token(call: &Call) -> String {
    let token = call.token("Bearer").or(call.token("DPoP")).unwrap();
    seen::note(&token);
    token
}

#[tokio::test]
async fn on_one_machine_an_assertion_is_signed() {
    let mut machine = machine();
    let server = Recorder::start().await;
    let key = Key::new("ES256", "first").await;
    machine.secret("client", json!({"key.pem": key.private_pem}));
    let authentication = json!({"method": "PrivateKeyJwt", "privateKeyJwt": {
        "keyRef": {"name": "client", "key": "key.pem"}, "keyId": "first",
    }});
    let registration = Registration::new("machine-assertion", Method::PrivateKeyJwt(key));
    let call = run(&mut machine, &server, registration, authentication, json!({})).await;
    machine.end(&[token(&call)]).await;
}

#[tokio::test]
async fn on_one_machine_a_client_certificate_is_shown_to_both_servers() {
    let mut machine = machine();
    let server = Recorder::demanding_certificates().await;
    let id = "machine-certificate";
    let own = certificate(id);
    machine.certificate("client", &own);
    let authentication = json!({"method": "TlsClientAuth", "certificateRef": {"name": "client"}});
    let subject = format!("CN={id}");
    let registration = Registration {
        certificate_bound: true,
        ..Registration::new(id, Method::Tls { subject })
    };
    let more = json!({"server": {"tls": {
        "caBundle": {"configMapKeyRef": {"name": "authority", "key": "ca.crt"}},
        "clientCertificate": {"name": "client"},
    }}});
    let call = run(&mut machine, &server, registration, authentication, more).await;
    let shown = CertificateDer::from_pem_slice(own.chain.as_bytes()).unwrap();
    assert_eq!(call.certificate.as_deref(), Some(&*shown));
    let bound_to = jwt::claims(&token(&call))["cnf"]["x5t#S256"].clone();
    assert_eq!(
        bound_to,
        json!(digest(&shown)),
        "the token is of this certificate"
    );
    machine.end(&[token(&call)]).await;
}

#[tokio::test]
async fn on_one_machine_each_call_proves_that_the_dpop_token_is_its_own() {
    let mut machine = machine();
    let server = Recorder::start().await;
    machine.secret("client", json!({"client-secret": SECRET}));
    let registration = Registration {
        dpop_bound: true,
        ..Registration::new("machine-dpop", Method::SecretBasic(SECRET.into()))
    };
    let more = json!({"oauth2": {"tokenType": "DPoP"}});
    let call = run(&mut machine, &server, registration, by_secret(), more).await;
    let token = token(&call);
    let proof = call.header("dpop").unwrap();
    let claims = jwt::claims(proof);
    assert_eq!(
        (&claims["htm"], &claims["htu"]),
        (&json!("POST"), &json!(server.url))
    );
    assert_eq!(claims["ath"], json!(digest(token.as_bytes())));
    let jwk = &jwt::header(proof)["jwk"];
    let [crv, x, y] = ["crv", "x", "y"].map(|key| jwk[key].as_str().unwrap());
    // RFC 7638: the members in their order.
    let thumbprint = digest(format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes());
    assert_eq!(jwt::claims(&token)["cnf"]["jkt"], json!(thumbprint));
    machine.end(&[token]).await;
}

#[tokio::test]
async fn on_one_machine_the_key_file_of_a_service_account_signs_the_grant() {
    let mut machine = machine();
    let server = Recorder::start().await;
    let key = Key::new("RS256", "k-1").await;
    let account = "litellm@project.example.com";
    // The authorization server takes assertions of this account, and reads its key when one comes.
    let public = format!("{}/service-account.pub", setting("MCPAUTH_TEST_AUTHORITY"));
    std::fs::write(public, &key.public_pem).unwrap();
    let file = json!({
        "type": "service_account", "private_key_id": "k-1", "private_key": key.private_pem, "client_email": account,
        "token_uri": "https://oauth2.example.com/token",
    });
    machine.secret("account", json!({"key.json": file.to_string()}));
    let registration = Registration {
        grant: Grant::JwtBearer,
        ..Registration::new("machine-key-file", Method::None)
    };
    let more = json!({"oauth2": {"jwtBearer": {"keyRef": {"name": "account", "key": "key.json"}}}});
    let authentication = json!({"method": "None"});
    let call = run(&mut machine, &server, registration, authentication, more).await;
    assert_eq!(jwt::claims(&token(&call))["sub"], account);
    machine.end(&[token(&call)]).await;
}

#[tokio::test]
async fn on_one_machine_the_mcp_server_s_challenge_leads_to_the_authorization_server() {
    let mut machine = machine();
    let server = Recorder::protected(&oauth::issuer()).await;
    machine.secret("client", json!({"client-secret": SECRET}));
    let registration = Registration::new("machine-challenge", Method::SecretBasic(SECRET.into()));
    let more = json!({"oauth2": {"issuer": null, "allowInsecureHttp": true}});
    let call = run(&mut machine, &server, registration, by_secret(), more).await;
    machine.end(&[token(&call)]).await;
}

#[tokio::test]
async fn on_one_machine_the_token_is_requested_through_the_egress_proxy() {
    let mut machine = machine();
    let server = Recorder::start().await;
    let (port, password) = (free_port(), "machine-pr0xy-password");
    let log = machine.folder().join("proxy.log");
    machine.write(
        "tinyproxy.conf",
        &format!(
            "Listen 127.0.0.1\nPort {port}\nBasicAuth machine {password}\nTimeout 60\nLogLevel Connect\nLogFile \"{}\"\n",
            log.display()
        ),
    );
    let _proxy = Command::new("tinyproxy")
        .args(["-d", "-c"])
        .arg(machine.folder().join("tinyproxy.conf"))
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
    until("the proxy to listen", listens, |listens| *listens).await;
    machine.secret("client", json!({"client-secret": SECRET}));
    machine.secret("proxy", json!({"username": "machine", "password": password}));
    let registration = Registration::new("machine-proxy", Method::SecretBasic(SECRET.into()));
    let more = json!({"egressProxy": {
        "url": format!("http://127.0.0.1:{port}"), "credentialsRef": {"name": "proxy"},
    }});
    let call = run(&mut machine, &server, registration, by_secret(), more).await;
    let log = std::fs::read_to_string(log).unwrap();
    let tunnels = log
        .lines()
        .filter(|line| line.contains("Established connection to host"));
    // For the metadata, and for the token.
    assert!(tunnels.count() >= 2, "{log}");
    assert!(!log.contains(SECRET), "the proxy sees a tunnel and nothing in it");
    machine.end(&[token(&call)]).await;
}

#[tokio::test]
async fn on_one_machine_each_user_gets_a_token_of_their_own() {
    let mut machine = machine();
    let server = Recorder::start().await;
    let id = "machine-exchange";
    machine.secret("client", json!({"client-secret": SECRET}));
    let registration = Registration {
        resource: server.url.clone(),
        grant: Grant::TokenExchange,
        ..Registration::new(id, Method::SecretBasic(SECRET.into()))
    };
    Server::OidcProvider.register(&registration).await;
    let more = json!({"oauth2": {"tokenExchange": {"subjectHeader": "X-User-Token"}}});
    machine.apply(&tools(&server.url, id, by_secret(), more));
    machine.start();
    assert!(machine.called().await.contains("result"), "{}", machine.log());
    let mut tokens = vec![token(&server.last("Bearer").await)];
    let mut subjects = vec![jwt::claims(&tokens[0])["sub"].clone()];
    for user in ["alice", "bob"] {
        let subject = oauth::user_token(user, id).await;
        let answer = machine.call(&[("x-user-token", subject.clone())]).await;
        assert!(answer.contains("result"), "{answer}");
        let call = server.last("Bearer").await;
        assert_eq!(
            call.header("x-user-token"),
            None,
            "what it was exchanged for goes on alone"
        );
        let token = token(&call);
        assert!(
            jwt::is_for(&jwt::claims(&token), &server.url),
            "{:?}",
            jwt::claims(&token)
        );
        subjects.push(jwt::claims(&token)["sub"].clone());
        tokens.extend([token, subject]);
    }
    assert_eq!(subjects, [json!(id), json!("alice"), json!("bob")]);
    machine.end(&tokens).await;
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}
