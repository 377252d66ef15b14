//! `mcp-auth exec --resources`: the resources of Kubernetes on one machine, and what changes while LiteLLM runs.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use support::{Ground, header, kill, message, request, serve, until};

/// An authorization server that takes one secret, and issues tokens that say what they were asked with.
#[derive(Clone)]
struct AuthorizationServer {
    address: SocketAddr,
    secret: Arc<Mutex<String>>,
}

impl AuthorizationServer {
    fn start(secret: &str) -> Self {
        let secret = Arc::new(Mutex::new(secret.to_owned()));
        let expected = secret.clone();
        let address = serve(move |request| {
            let (_, form) = request.split_once("\r\n\r\n").unwrap();
            let secret = expected.lock().unwrap().clone();
            if !form.contains(&format!("client_secret={secret}")) {
                return (401, r#"{"error": "invalid_client"}"#.to_owned());
            }
            let token = match form.contains("token-exchange") {
                true => "t0ken-of-the-user".to_owned(),
                false => format!("t0ken-by-{secret}"),
            };
            let issued = "urn:ietf:params:oauth:token-type:access_token";
            let answer = format!(
                r#"{{"access_token": "{token}", "token_type": "Bearer", "expires_in": 3600, "issued_token_type": "{issued}"}}"#
            );
            (200, answer)
        });
        Self { address, secret }
    }

    fn rotate(&self, secret: &str) {
        *self.secret.lock().unwrap() = secret.to_owned();
    }
}

/// An MCP server that answers with the credentials that arrived.
fn mcp_server() -> SocketAddr {
    serve(|request| {
        let arrived =
            ["authorization", "cookie", "x-theme"].map(|name| header(request, name).unwrap_or("none"));
        let result =
            serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {"arrived": arrived.join(" | ")}});
        (200, result.to_string())
    })
}

fn resource(mcp_server: SocketAddr, authorization_server: SocketAddr, more: &str) -> String {
    format!(
        "apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {{name: tools, namespace: llm}}
spec:
  server: {{name: tools, url: 'http://{mcp_server}/mcp', allowInsecureHttp: true}}
  oauth2:
    tokenUrl: http://{authorization_server}/token
    allowInsecureHttp: true
    clientId: litellm
    clientAuthentication: {{method: ClientSecretPost, clientSecretRef: {{name: tools-oauth, key: secret}}}}
{more}"
    )
}

/// Whole or not at all, as secret stores write files.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// What arrived at the MCP server for a user's request with these headers; nothing where LiteLLM does not answer.
fn call(ground: &Ground, headers: &str) -> Option<String> {
    call_server(ground, "tools", headers)
}

fn call_server(ground: &Ground, server: &str, headers: &str) -> Option<String> {
    let port = ground.port;
    let head = format!(
        "POST /call/{server} HTTP/1.1\r\nhost: litellm\r\ncontent-length: 0\r\n{headers}connection: close\r\n\r\n"
    );
    let (status, body) = request(port, &head)?;
    (status == 200).then_some(body)
}

#[test]
fn changed_secrets_and_resources_are_taken_while_calls_run_and_none_fails() {
    let (authorization_server, mcp_server) = (AuthorizationServer::start("s3cret-1"), mcp_server());
    let ground = Ground::new("{}");
    let folder = ground.folder.path().join("resources");
    let tools = resource(mcp_server, authorization_server.address, "");
    write(&folder.join("tools.yaml"), &tools);
    write(&folder.join("secrets/tools-oauth/secret"), "s3cret-1\n");
    let child = ground
        .litellm_with(&["--resources", "resources"])
        .spawn()
        .unwrap();
    let cookies = "cookie: session_id=ada; theme=dark\r\n";
    let first = until("LiteLLM answers", || call(&ground, cookies));
    assert!(first.contains("Bearer t0ken-by-s3cret-1 | none"), "{first}");

    // The authorization server takes the new secret only. Calls go on all the while.
    authorization_server.rotate("s3cret-2");
    write(&folder.join("secrets/tools-oauth/secret"), "s3cret-2\n");
    let mut seen = BTreeSet::new();
    until("the new token is used", || {
        let answer = call(&ground, cookies).unwrap();
        let is_new = answer.contains("t0ken-by-s3cret-2");
        seen.insert(answer);
        is_new.then_some(())
    });
    assert!(
        seen.iter().all(|answer| answer.contains("Bearer t0ken-by-")),
        "{seen:?}"
    );

    // A cookie is allowed, and a resource that cannot be used changes nothing.
    let cookie = "  cookiePassthrough: {enabled: true, cookieNames: [session_id]}\n";
    write(&folder.join("tools.yaml"), &format!("{tools}{cookie}"));
    until("the cookie arrives", || {
        let answer = call(&ground, cookies).unwrap();
        answer
            .contains("t0ken-by-s3cret-2 | session_id=ada |")
            .then_some(())
    });
    write(&folder.join("tools.yaml"), &tools.replace("clientId", "clientID"));
    let log = until("it is told", || {
        let log = ground.log();
        log.contains("spec.oauth2.clientID: unknown field").then_some(log)
    });
    assert!(log.contains("what was read before serves on"), "{log}");
    let answer = call(&ground, cookies).unwrap();
    assert!(
        answer.contains("t0ken-by-s3cret-2 | session_id=ada |"),
        "{answer}"
    );

    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
    let log = ground.log();
    assert!(!log.contains("s3cret-") && !log.contains("t0ken-by"), "{log}");
}

#[test]
fn one_resource_that_cannot_be_used_holds_back_no_other_at_start_and_on_change() {
    let (authorization_server, mcp_server) = (AuthorizationServer::start("s3cret-1"), mcp_server());
    let ground = Ground::new("{}");
    let folder = ground.folder.path().join("resources");
    let tools = resource(mcp_server, authorization_server.address, "");
    let other = tools.replace("name: tools,", "name: other,");
    write(&folder.join("tools.yaml"), &tools);
    write(&folder.join("broken.yaml"), "kind: [s3cret-0");
    write(
        &folder.join("other.yaml"),
        &other.replace("name: tools-oauth", "name: lost-oauth"),
    );
    write(&folder.join("secrets/tools-oauth/secret"), "s3cret-1\n");
    let child = ground
        .litellm_with(&["--resources", "resources"])
        .spawn()
        .unwrap();
    let cookies = "cookie: session_id=ada\r\n";
    let first = until("LiteLLM answers", || call(&ground, cookies));
    assert!(first.contains("Bearer t0ken-by-s3cret-1 | none"), "{first}");
    let log = ground.log();
    for expected in [
        "cannot be used, and all else is served: resources/broken.yaml is not YAML",
        "cannot be used, and all else is served: resources/other.yaml: McpServerAuth other: Secret lost-oauth",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    // A call to the other server is refused with the reason, and not sent without a token.
    let refused = call_server(&ground, "other", cookies).unwrap();
    assert!(
        refused.contains("503: ") && refused.contains("lost-oauth"),
        "{refused}"
    );

    // One is broken by a change, and another is changed and mended beside it.
    write(&folder.join("tools.yaml"), &tools.replace("clientId", "clientID"));
    let cookie = "  cookiePassthrough: {enabled: true, cookieNames: [session_id]}\n";
    write(&folder.join("other.yaml"), &format!("{other}{cookie}"));
    until("the mended one serves", || {
        let answer = call_server(&ground, "other", cookies).unwrap();
        answer
            .contains("Bearer t0ken-by-s3cret-1 | session_id=ada |")
            .then_some(())
    });
    let unchanged = call(&ground, cookies).unwrap();
    assert!(
        unchanged.contains("Bearer t0ken-by-s3cret-1 | none"),
        "{unchanged}"
    );
    let log = ground.log();
    assert!(
        log.contains("cannot be used, and what was read before serves on: resources/tools.yaml"),
        "{log}"
    );
    assert!(!log.contains("s3cret-"), "{log}");
    kill(&child, Signal::TERM);
    child.wait_with_output().unwrap();
}

#[test]
fn where_no_resource_can_be_used_each_is_named_and_litellm_is_not_started() {
    let ground = Ground::new("{}");
    let folder = ground.folder.path().join("resources");
    write(&folder.join("broken.yaml"), "kind: [");
    write(
        &folder.join("other.yaml"),
        "{apiVersion: mcpauth.dev/v1, kind: McpServerAuth}",
    );
    let mut command = ground.litellm_with(&["--resources", "resources"]);
    let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", message(&output));
    let told = message(&output);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(
        lines[0].starts_with("mcp-auth: resources/broken.yaml is not YAML"),
        "{told}"
    );
    assert!(
        lines[1].starts_with("mcp-auth: resources/other.yaml: \"mcpauth.dev/v1"),
        "{told}"
    );
    assert!(!ground.folder.path().join("report").exists());
}

#[test]
fn changed_auth_blocks_and_secret_files_are_taken_while_litellm_runs() {
    let (authorization_server, mcp_server) = (AuthorizationServer::start("s3cret-1"), mcp_server());
    let block = |more: &str| {
        format!(
            "mcp_servers:
  tools:
    url: http://{mcp_server}/mcp
    auth:
      oauth2: {{token_url: 'http://{}/token', client_id: litellm, client_secret: '${{SECRET}}',
        client_authentication: client_secret_post}}
{more}",
            authorization_server.address
        )
    };
    let ground = Ground::new(&block(""));
    let secret = ground.folder.path().join("secret-file");
    write(&secret, "s3cret-1\n");
    let child = ground.litellm().env("SECRET_FILE", &secret).spawn().unwrap();
    let headers = "cookie: session_id=ada; theme=dark\r\n";
    let first = until("LiteLLM answers", || call(&ground, headers));
    assert!(first.contains("Bearer t0ken-by-s3cret-1 | none"), "{first}");

    authorization_server.rotate("s3cret-2");
    write(&secret, "s3cret-2\n");
    until("the new token is used", || {
        let answer = call(&ground, headers).unwrap();
        assert!(answer.contains("Bearer t0ken-by-"), "{answer}");
        answer.contains("t0ken-by-s3cret-2").then_some(())
    });
    let cookies = "      cookie_passthrough: {enabled: true, cookie_names: [theme]}\n";
    write(&ground.folder.path().join("config.yaml"), &block(cookies));
    until("the cookie arrives", || {
        let answer = call(&ground, headers).unwrap();
        answer.contains("t0ken-by-s3cret-2 | theme=dark |").then_some(())
    });
    kill(&child, Signal::TERM);
    child.wait_with_output().unwrap();
}

#[test]
fn a_user_gets_a_token_of_their_own_and_the_headers_that_the_resource_names() {
    let (authorization_server, mcp_server) = (AuthorizationServer::start("s3cret-1"), mcp_server());
    let ground = Ground::new("{}");
    let folder = ground.folder.path().join("resources");
    let more = "    tokenExchange: {subjectHeader: X-User-Token}
  headerPassthrough: {headerNames: [X-Theme]}
  audit: {user: {header: X-Theme}}
---
apiVersion: v1
kind: Secret
metadata: {name: tools-oauth}
data: {secret: czNjcmV0LTE=}
";
    write(
        &folder.join("all.yaml"),
        &resource(mcp_server, authorization_server.address, more),
    );
    let audit = ground.folder.path().join("audit.log");
    let options = ["--resources", "resources", "--audit-log", audit.to_str().unwrap()];
    let child = ground.litellm_with(&options).spawn().unwrap();
    let anonymous = until("LiteLLM answers", || call(&ground, ""));
    assert!(
        anonymous.contains("Bearer t0ken-by-s3cret-1 | none | none"),
        "{anonymous}"
    );
    let user = call(
        &ground,
        "x-user-token: subject-t0ken\r\nx-theme: dark\r\nx-other: no\r\n",
    )
    .unwrap();
    assert!(user.contains("Bearer t0ken-of-the-user | none | dark"), "{user}");

    kill(&child, Signal::TERM);
    child.wait_with_output().unwrap();
    let lines = fs::read_to_string(&audit).unwrap();
    let of_the_user = lines.lines().find(|line| line.contains("\"dark\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(of_the_user).unwrap();
    assert_eq!(line["schema"], "mcpauth.dev/audit/v1");
    assert_eq!(
        (&line["server"], &line["resource"]),
        (&"tools".into(), &"tools".into())
    );
    assert!(!lines.contains("t0ken"), "{lines}");
}
