//! Clusters that cannot be asked, or know nothing of this mcp-auth: each is one message, and none is waited for long.

use std::process::Stdio;

use mcp_auth_tests::wait::LIMIT;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::{command, kubeconfig, run};

/// For [`empty_cluster`]: it tells its version, and answers nothing more.
const NOTHING_MORE: &str = "nothing more";

/// A cluster without this mcp-auth, as far as the program asks it: a version, and no API groups, or that of another
/// version of mcp-auth.
pub async fn empty_cluster(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = connection.read(&mut request).await.unwrap_or_default();
            let is_version = request[..read].starts_with(b"GET /version");
            if !is_version && version == NOTHING_MORE {
                unanswered.push(connection);
                continue;
            }
            let body = match is_version {
                true => json!({
                    "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "",
                    "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
                }),
                false => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(version)}),
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

fn groups(version: &str) -> Value {
    match version {
        "" => json!([]),
        version => {
            let version = json!({"groupVersion": format!("mcpauth.dev/{version}"), "version": version});
            json!([{"name": "mcpauth.dev", "versions": [version], "preferredVersion": version}])
        }
    }
}

#[tokio::test]
async fn a_cluster_that_stops_answering_is_told_before_it_is_given_up() {
    let stalls = kubeconfig("stalls", Some(&empty_cluster(NOTHING_MORE).await), "x");
    let mut program = command(&["status", "--kubeconfig", &stalls])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await;
    let line = line.expect("it says something").unwrap().unwrap();
    assert!(
        line.starts_with("note: the cluster at http://127.0.0.1:"),
        "{line}"
    );
    assert!(
        line.ends_with("has not answered for 4 s, asked to list its API groups; waiting for 30 s at most"),
        "{line}"
    );
    assert_eq!(program.try_wait().unwrap(), None, "it goes on waiting");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked_is_one_message() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let address = format!("http://{silent}");
    let cases = [
        (
            kubeconfig("silent-tls", Some(&format!("https://{silent}")), "x"),
            3,
            "does not answer within 3 s",
        ),
        (
            kubeconfig("silent", Some(&address), "x"),
            3,
            "does not answer within 4 s",
        ),
        (
            kubeconfig("closed", Some("http://127.0.0.1:1"), "x"),
            3,
            "cannot be reached",
        ),
        (
            kubeconfig("unknown-user", None, "n0-such-t0ken"),
            4,
            "does not take the kubeconfig's credentials",
        ),
        (
            kubeconfig("empty", Some(&empty_cluster("").await), "x"),
            5,
            "mcp-auth is not installed",
        ),
        (
            kubeconfig("other-version", Some(&empty_cluster("v1beta1").await), "x"),
            5,
            "it serves mcpauth.dev/v1beta1 and this program knows mcpauth.dev/v1alpha1",
        ),
        (
            "/nonexistent".to_owned(),
            3,
            "the kubeconfig /nonexistent cannot be used: there is no such file",
        ),
    ];
    for (path, code, expected) in &cases {
        // Each command asks the cluster in the same way.
        let commands: [&[&str]; 5] = [
            &["status"],
            &["doctor"],
            &["explain", "litellm-0"],
            &["token", "tools"],
            &["logs", "--audit"],
        ];
        let running = commands.map(|command| async move {
            // Where nothing is installed the doctor says that among its findings.
            let is_doctor = command[0] == "doctor" && *code == 5;
            (
                command,
                (!is_doctor).then_some(run(&[command, &["--kubeconfig", path]].concat()).await),
            )
        });
        for (command, printed) in futures::future::join_all(running).await {
            let Some(printed) = printed else {
                continue;
            };
            assert_eq!(printed.code, *code, "{command:?} {path}: {printed:?}");
            assert!(printed.out.is_empty(), "{printed:?}");
            assert_eq!(printed.err.lines().count(), 1, "{printed:?}");
            assert!(
                printed.err.contains(expected) && !printed.err.contains("n0-such"),
                "{command:?}: {}",
                printed.err
            );
        }
    }
}
