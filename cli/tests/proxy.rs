//! Egress proxies of the machine that the plugin runs on.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::fs;
use std::net::TcpListener;
use std::process::Command;

/// One proxy for both: an address at which nothing listens any more.
fn address_without_listener() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

#[test]
fn a_proxy_of_the_environment_keeps_nobody_from_the_api_server() {
    let server = address_without_listener();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: here
clusters: [{{name: c, cluster: {{server: 'https://{server}'}}}}]
users: [{{name: u, user: {{token: unused}}}}]
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
"
    );
    fs::write(&kubeconfig, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-mcp_auth"))
        .args(["status", "--kubeconfig"])
        .arg(&kubeconfig)
        .env("HTTPS_PROXY", format!("http://{}", address_without_listener()))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        told.contains(&server),
        "it is the API server that does not answer: {told}"
    );
    assert!(!told.to_lowercase().contains("proxy"), "{told}");
}
