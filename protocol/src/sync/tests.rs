use serde_json::json;

use super::*;

fn snapshot() -> Snapshot {
    Snapshot {
        revision: "7".into(),
        operator_ca: "PEM".into(),
        capabilities: vec![],
        fingerprint_key: Some("f1nger-k3y".into()),
        servers: vec![Server {
            route: Route {
                resource: "tools".into(),
                server: "tools".into(),
                url: "https://tools.example.com/mcp".into(),
                transport: Transport::StreamableHttp,
                http1_only: false,
                affinity_cookies: Vec::new(),
                answer_timeout_seconds: None,
                ca_bundle: None,
                cookies: vec!["session_id".into()],
                headers: vec![],
                user_context: UserContext::Optional,
                exchange: None,
                credential_identity: String::new(),
                audit: None,
                litellm: None,
            },
            credential: Credential::Bearer {
                id: "a7".into(),
                token: "t0p-s3cret".into(),
                proof_key: Some("pr00f-key".into()),
                expires_at: Some(1_800_000_000),
            },
            resource_uid: Some("u1".into()),
            client_certificate: Some(ClientCertificate {
                chain: "PEM".into(),
                key: "tls-k3y".into(),
            }),
            egress_proxy: Some(EgressProxy {
                url: "http://proxy.example.com:3128".into(),
                authorization: Some("Basic pr0xy".into()),
            }),
            addresses: Some(ServerAddresses::NotLoopback),
            declined: None,
        }],
        sent_at: Some(1_799_999_000),
        unreadable: vec![],
    }
}

#[test]
fn a_snapshot_is_one_line_and_comes_back_as_it_was() {
    let line = serde_json::to_string(&snapshot()).unwrap();
    assert!(!line.contains('\n'));
    assert!(
        line.contains(concat!(
            r#""credential":{"kind":"bearer","id":"a7","token":"t0p-s3cret","#,
            r#""proofKey":"pr00f-key","expiresAt":1800000000}"#
        )),
        "{line}"
    );
    assert_eq!(serde_json::from_str::<Snapshot>(&line).unwrap(), snapshot());
}

fn delta() -> SnapshotDelta {
    let Snapshot { servers, sent_at, .. } = snapshot();
    SnapshotDelta {
        revision: "8".into(),
        base: "7".into(),
        servers,
        removed: vec!["files".into()],
        sent_at,
        unreadable: vec![],
    }
}

#[test]
fn a_line_is_a_whole_snapshot_or_the_change_from_the_one_before() {
    let whole = serde_json::to_string(&snapshot()).unwrap();
    assert_eq!(
        serde_json::from_str::<SnapshotLine>(&whole).unwrap(),
        SnapshotLine::Whole(snapshot())
    );
    let change = serde_json::to_string(&delta()).unwrap();
    assert!(
        change.starts_with(r#"{"revision":"8","base":"7","servers":[{"#),
        "{change}"
    );
    assert!(
        change.contains(r#""removed":["files"],"sentAt":1799999000}"#),
        "{change}"
    );
    assert_eq!(
        serde_json::from_str::<SnapshotLine>(&change).unwrap(),
        SnapshotLine::Delta(delta())
    );
}

#[test]
fn a_delta_is_never_taken_for_a_whole_snapshot_nor_part_of_one_for_the_whole() {
    let change = serde_json::to_string(&delta()).unwrap();
    assert!(serde_json::from_str::<Snapshot>(&change).is_err());
    let without_authority = r#"{"revision":"8","servers":[]}"#;
    let error = serde_json::from_str::<SnapshotLine>(without_authority).unwrap_err();
    assert!(error.to_string().contains("operatorCa"), "{error}");
}

#[test]
fn a_capability_of_a_later_version_costs_no_other() {
    let text =
        r#"{"pod":{"namespace":"","name":"","uid":""},"version":"","capabilities":["teleport","deltas"]}"#;
    let report: Report = serde_json::from_str(text).unwrap();
    assert_eq!(report.capabilities, [Capability::Deltas]);
    let older = r#"{"pod":{"namespace":"","name":"","uid":""},"version":""}"#;
    assert_eq!(serde_json::from_str::<Report>(older).unwrap().capabilities, []);
}

#[test]
fn debug_output_never_holds_a_secret() {
    let seen = format!("{:?}{:?}", snapshot(), SnapshotLine::Delta(delta()));
    for secret in ["t0p-s3cret", "pr00f-key", "tls-k3y", "f1nger-k3y", "pr0xy"] {
        assert!(!seen.contains(secret), "{seen}");
    }
}

/// Sidecars and operators of different versions meet during an upgrade.
#[test]
fn names_on_the_wire_stay_what_they_are() {
    let mut server = snapshot().servers.remove(0);
    server.route.exchange = Some(SubjectTokenSource::Cookie("session".into()));
    server.route.credential_identity = "i1".into();
    server.route.audit = Some(Audit {
        argument_names: true,
        user: Some(AuditUser {
            from: SubjectTokenSource::Header("x-id".into()),
            claim: Some("sub".into()),
            verification: None,
        }),
    });
    server.declined = Some(DeclinedRefresh {
        token: "a7".into(),
        why: RejectionCause::InsufficientScope(vec!["write".into()]),
        message: "no".into(),
    });
    let server = serde_json::to_value(server).unwrap();
    assert_eq!(server["exchange"], json!({"cookie": "session"}));
    assert_eq!(server["mintedFor"], "i1");
    let user = json!({"from": {"header": "x-id"}, "claim": "sub"});
    assert_eq!(server["audit"], json!({"argumentNames": true, "user": user}));
    assert_eq!(server["clientCertificate"]["chain"], "PEM");
    let why = json!({"insufficientScope": ["write"]});
    assert_eq!(
        server["declined"],
        json!({"token": "a7", "why": why, "message": "no"})
    );

    let report = Report {
        capabilities: vec![Capability::Deltas],
        applied: Some("7".into()),
        restart_needed_for: vec!["new".into()],
        problems: vec![Problem::new("PortTaken", "by another").for_server("tools")],
        refused: vec![RejectedToken {
            server: "tools".into(),
            token: "a7".into(),
            why: RejectionCause::Unauthorized,
        }],
        ..Report::default()
    };
    assert_eq!(
        serde_json::to_value(report).unwrap(),
        json!({
            "pod": {"namespace": "", "name": "", "uid": ""},
            "version": "",
            "capabilities": ["deltas"],
            "applied": "7",
            "restartNeededFor": ["new"],
            "problems": [{"reason": "PortTaken", "message": "by another", "server": "tools"}],
            "refused": [{"server": "tools", "token": "a7", "why": "unauthorized"}],
        })
    );
}
