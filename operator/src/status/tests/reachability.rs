//! What the status says of whether sidecars reach the MCP server.

use super::*;

/// One injected pod for each list of what its sidecar has learned.
fn with_learned(learned: &[Vec<ServerReachability>]) -> Option<Vec<PodWithSidecar>> {
    let pods = learned.iter().enumerate().map(|(index, learned)| {
        let sidecar = Sidecar {
            reachability: learned.clone().into(),
            ..synced()
        };
        let name = format!("litellm-{index}");
        (pod(&name, Some("mcpauth.dev/injected")), Some(sidecar.into()))
    });
    Some(pods.collect())
}

#[test]
fn a_server_that_one_pod_cannot_reach_is_not_reachable_and_the_message_says_what_to_do() {
    let resource = resource("https://tools.example.com/mcp");
    let untrusted = ServerReachability {
        detail: "invalid peer certificate: UnknownIssuer".into(),
        ..of_server("tools", Reachability::CertificateNotTrusted)
    };
    let scenario = Scenario {
        pods: with_learned(&[vec![of_server("tools", Reachability::Answered)], vec![untrusted]]),
        ..good(&resource)
    };
    let status = status(&scenario, now());
    let (holds, reason, message) = condition(&status, conditions::SERVER_REACHABLE);
    assert_eq!((&*holds, &*reason), ("False", "CertificateNotTrusted"));
    for part in [
        "pod litellm-1 ",
        "https://tools.example.com/mcp",
        "2026-11-23T12:00:00Z",
        "UnknownIssuer",
        "spec.server.tls.caBundle",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(ready(&scenario), pair("False", "CertificateNotTrusted"));
}

#[test]
fn ready_claims_that_litellm_reaches_the_server_only_once_a_sidecar_has() {
    let resource = resource("https://tools.example.com/mcp");
    let of = |learned: &[Vec<ServerReachability>]| {
        let scenario = Scenario {
            pods: with_learned(learned),
            ..good(&resource)
        };
        let status = status(&scenario, now());
        let (holds, _, message) = condition(&status, conditions::READY);
        (condition(&status, conditions::SERVER_REACHABLE), holds, message)
    };
    // A sidecar of an earlier version says nothing, and another server is another's matter.
    for unknown in [
        vec![],
        vec![of_server("tools", Reachability::NotContacted)],
        vec![of_server("other", Reachability::ConnectionFailed)],
    ] {
        let ((holds, reason, _), ready, message) = of(&[unknown]);
        assert_eq!((&*holds, &*reason), ("Unknown", "NotContacted"));
        assert!(
            ready == "True" && message.contains("none has spoken to the server yet"),
            "{message}"
        );
    }
    let ((_, reason, message), _, _) = of(&[vec![of_server("tools", Reachability::Connected)], vec![]]);
    assert_eq!(reason, "Connected");
    assert!(message.contains("1 of 2"), "{message}");
    let ((_, reason, _), _, message) = of(&[
        vec![of_server("tools", Reachability::Connected)],
        vec![of_server("tools", Reachability::Answered)],
    ]);
    assert_eq!(reason, "Answered");
    assert!(message.contains("LiteLLM reaches tools"), "{message}");
}
