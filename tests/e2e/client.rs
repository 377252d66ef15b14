//! The user's program in the cluster, and requests that no decent program would send.

use serde_json::{Value, json};

use crate::command::{kubectl, run};
use crate::ground::NAMESPACE;

/// Sends the bytes of its input and prints what comes back.
const RAW: &str = "
import os, socket, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
request = sys.stdin.buffer.read().replace(b'API_KEY', os.environ['LITELLM_API_KEY'].encode())
with socket.create_connection((url.hostname, url.port), 300) as connection:
    connection.settimeout(300)
    connection.sendall(request)
    answer = b''
    while piece := connection.recv(65536):
        answer += piece
print(answer.decode(errors='replace'))
";

/// LiteLLM as users know it.
pub fn url(service: &str) -> String {
    format!("http://{service}.{NAMESPACE}.svc:4000")
}

/// One command of `client.py` at this LiteLLM. The answer may tell of a failure.
pub async fn client(litellm: &str, arguments: &[&str]) -> Value {
    let url = format!("LITELLM_URL={litellm}");
    let command = [
        "exec",
        "deploy/client",
        "--",
        "env",
        &url,
        "python3",
        "/programs/client.py",
    ];
    let said = kubectl(&[&command, arguments].concat()).await;
    serde_json::from_str(&said.out)
        .unwrap_or_else(|_| panic!("client.py printed no JSON: {}{}", said.out, said.err))
}

/// Calls over three ways, three a second, by one program with one pool of connections: while `until` goes on, and for ten
/// minutes at the most. The account of the calls, and what `until` came to.
pub async fn calls_while<T>(litellm: &str, until: impl Future<Output = T>) -> (Value, T) {
    const STOP: &str = "/tmp/stop";
    let file = |command: &'static [&'static str]| async move {
        let command = [&["exec", "deploy/client", "--"], command].concat();
        kubectl(&command).await.ok();
    };
    file(&["rm", "-f", STOP]).await;
    let load = [
        "load",
        "--through",
        "chat",
        "responses",
        "chat-stream",
        "--rate",
        "3",
        "--seconds",
        "600",
        "--until",
        STOP,
    ];
    let stopping = async {
        let outcome = until.await;
        file(&["touch", STOP]).await;
        outcome
    };
    tokio::join!(client(litellm, &load), stopping)
}

/// What the tool `whoami` says of a call with this Cookie header.
pub async fn whoami(litellm: &str, server: &str, cookie: &str) -> Value {
    let cookie = format!("Cookie={cookie}");
    let said = client(litellm, &["call", "--server", server, "--header", &cookie]).await;
    assert!(said["answer"].is_object(), "the tool answers: {said}");
    said["answer"].clone()
}

/// A request with these header lines and a chat that calls `whoami`, byte for byte; status and body come
/// back.
pub async fn raw(litellm: &str, header_lines: &str, tool: Value) -> (u16, String) {
    let place = json!({
        "type": "mcp", "server_label": "tools", "server_url": "litellm_proxy/mcp/tools",
        "require_approval": "never",
    });
    let mut offered = place;
    mcp_auth_tests::resource::merge(&mut offered, tool);
    let body = json!({
        "model": "stub", "messages": [{"role": "user", "content": "use whoami {}"}], "tools": [offered],
    })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: litellm\r\nAuthorization: Bearer API_KEY\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\
         {header_lines}\r\n{body}",
        body.len()
    );
    let arguments = [
        "--namespace",
        NAMESPACE,
        "exec",
        "--stdin",
        "deploy/client",
        "--",
        "python3",
        "-c",
        RAW,
        litellm,
    ];
    let answer = run("kubectl", &arguments, &request).await.ok();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (
        status.unwrap_or_else(|| panic!("no HTTP answer: {answer}")),
        body.to_owned(),
    )
}
