//! Programs run to their end, as a person at a terminal would run them.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::ground::NAMESPACE;

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    pub success: bool,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output of a program that must not fail.
    pub fn ok(self) -> String {
        assert!(self.success, "{}{}", self.out, self.err);
        self.out
    }
}

pub async fn run(program: &str, arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that does not read its input closes it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child
        .wait_with_output()
        .await
        .expect("the program can be waited for");
    Said {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// In the namespace of the tests.
pub async fn kubectl(arguments: &[&str]) -> Said {
    let arguments = [&["--namespace", NAMESPACE], arguments].concat();
    run("kubectl", &arguments, "").await
}

pub async fn helm(arguments: &[&str]) -> Said {
    run("helm", arguments, "").await
}

/// Objects as the API server holds them.
pub async fn get(arguments: &[&str]) -> Value {
    let arguments = [&["get", "--output", "json"], arguments].concat();
    serde_json::from_str(&kubectl(&arguments).await.ok()).expect("kubectl prints JSON")
}

pub async fn apply(objects: &[Value]) {
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let arguments = ["--namespace", NAMESPACE, "apply", "--filename", "-"];
    run("kubectl", &arguments, &list.to_string()).await.ok();
}

/// Objects written in YAML, without their being created.
pub async fn parse(yaml: &str) -> Vec<Value> {
    let arguments = [
        "create",
        "--dry-run=client",
        "--validate=false",
        "--output",
        "json",
        "--filename",
        "-",
    ];
    let out = run("kubectl", &arguments, yaml).await.ok();
    let documents = serde_json::Deserializer::from_str(&out).into_iter::<Value>();
    let documents = documents.map(|document| document.expect("kubectl prints JSON"));
    documents
        .flat_map(|document| match &document["items"] {
            Value::Array(items) => items.clone(),
            _ => vec![document],
        })
        .collect()
}
