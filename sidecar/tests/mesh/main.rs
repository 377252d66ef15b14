//! The sidecar behind a service mesh with strict mutual TLS. Two network namespaces stand for node and pod. The pod's
//! inbound connections are led to a listener that takes TLS only, by the rules that `istio-init` writes, so that what
//! the kubelet sends to a port of the pod fails there. Probes and hook are those that injection gives such a pod.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod namespaces;
mod pod;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use crate::namespaces::{POD, in_two_namespaces};
use crate::pod::{HEALTH_PORT, Pod, USERS_PORT};

/// What injection makes of a pod with Istio's proxy.
const INJECTED: &str =
    include_str!("../../../operator/tests/injection/testdata/snapshots/pod@mesh.yaml.snap");
/// Bounds all that a test waits for.
const ATTEMPTS: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn behind_a_proxy_that_takes_tls_only_probes_and_drain_work_and_users_are_served() {
    in_two_namespaces(
        "behind_a_proxy_that_takes_tls_only_probes_and_drain_work_and_users_are_served",
        |node| {
            let pod = Pod::start();

            // Without this the rest would show nothing: the kubelet's own requests fail here.
            let plain = node.run(|| {
                [HEALTH_PORT, USERS_PORT]
                    .map(|port| ask(TcpStream::connect((POD, port)).unwrap(), "/startup"))
            });
            for answer in plain {
                assert!(
                    !answer.starts_with("HTTP/"),
                    "the proxy took plain HTTP: {answer}"
                );
            }

            until("the startup probe passes", || {
                pod.program(&["probe", "/startup"]).success()
            });
            assert!(
                !pod.program(&["probe", "/ready"]).success(),
                "ready without LiteLLM"
            );
            let litellm = pod.start_litellm();
            until("the readiness probe passes", || {
                pod.program(&["probe", "/ready"]).success()
            });

            let users = SocketAddr::new(POD.into(), USERS_PORT);
            let over_tls = || node.run(|| ask(pod.tls(TcpStream::connect(users).unwrap()), "/v1/models"));
            let mut answer = String::new();
            until("users reach LiteLLM", || {
                answer = over_tls();
                answer.starts_with("HTTP/1.1 200")
            });
            assert!(answer.ends_with("from LiteLLM"), "{answer}");
            assert!(!says_close(&answer), "{answer}");

            // The kubelet runs the hook, and LiteLLM serves meanwhile.
            let mut hook = pod.spawn(&["drain"]);
            let mut answers = Vec::new();
            while is_running(&mut hook) {
                answers.push(over_tls());
                assert!(answers.len() < 100_000, "the hook does not end");
            }
            assert!(hook.wait().unwrap().success(), "the drain hook failed");
            assert!(
                answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")),
                "{answers:?}"
            );
            assert!(
                answers.iter().any(|answer| says_close(answer)),
                "no connection was closed while the sidecar drained: {answers:?}"
            );
            drop(litellm);
        },
    );
}

/// What the test runs in the pod is what injection has the kubelet run there.
#[test]
fn injection_gives_such_a_pod_the_probes_and_the_hook_that_work_there() {
    for words in [&["drain"][..], &["probe", "/ready"], &["probe", "/startup"]] {
        let lines: Vec<&str> = std::iter::once("/mcp-auth-sidecar")
            .chain(words.iter().copied())
            .collect();
        let all: Vec<&str> = INJECTED
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("- "))
            .collect();
        assert!(
            all.windows(lines.len()).any(|window| window == lines),
            "{words:?} is not run by the kubelet"
        );
    }
    let (_, sidecar) = INJECTED.split_once("name: mcpauth-sidecar").unwrap();
    assert!(!sidecar.contains("port: 16482"), "{sidecar}");
}

fn says_close(answer: &str) -> bool {
    answer.to_ascii_lowercase().contains("\r\nconnection: close")
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// The whole answer to a request, or what came instead of one.
fn ask(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: litellm\r\nconnection: keep-alive\r\n\r\n");
    let mut answer = Vec::new();
    if let Err(error) = stream.write_all(request.as_bytes()) {
        return error.to_string();
    }
    // A kept connection does not end with the answer, whose length is stated.
    let mut piece = [0; 4096];
    while !is_whole(&answer) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) => return error.to_string(),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| length.trim().parse() == Ok(body.len()))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..ATTEMPTS {
        if holds() {
            return;
        }
        sleep(PAUSE);
    }
    panic!("never: {what}");
}
