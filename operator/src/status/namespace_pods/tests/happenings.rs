//! What may happen to the pods of a namespace and to their sidecars.

use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_protocol::sync::{Problem, Report};
use proptest::prelude::*;

use super::SERVERS;
use crate::inject::annotations;

pub const LABELS: [&[(&str, &str)]; 4] = [
    &[],
    &[("app", "litellm")],
    &[("app", "litellm"), ("team", "red")],
    &[("app", "litellm"), (annotations::INJECT_LABEL, "false")],
];
/// Who made a pod.
pub const OWNERS: [Option<(&str, &str)>; 3] = [
    None,
    Some(("apps/v1", "ReplicaSet")),
    Some(("apps/v1", "StatefulSet")),
];
/// By which labels resources select.
pub const SELECTORS: [&[(&str, &str)]; 3] = [&[], &[("app", "litellm")], &[("team", "red")]];
pub const ANNOTATIONS: [&[(&str, &str)]; 6] = [
    &[(annotations::INJECTED, "0.1.0")],
    &[
        (annotations::INJECTED, "0.1.0"),
        (annotations::WARNINGS, "LowPort: 80"),
    ],
    &[],
    &[(annotations::NOT_INJECTED, "HostNetwork: it uses the node's")],
    &[
        (annotations::NOT_INJECTED, "LiteLlmTls: it serves TLS"),
        (annotations::WARNINGS, "LowPort: 80"),
    ],
    &[(annotations::SKIPPED, "NotLiteLlm")],
];

#[derive(Clone, Debug)]
pub enum Happening {
    /// A pod in this place is made, or another one instead of it.
    Created {
        place: usize,
        labels: usize,
        annotations: usize,
        owner: usize,
        age: i64,
    },
    /// Its labels are others now.
    Relabelled {
        place: usize,
        labels: usize,
    },
    /// The kubelet or somebody else has changed the pod.
    Annotated {
        place: usize,
        annotations: usize,
    },
    Ending {
        place: usize,
    },
    Gone {
        place: usize,
    },
    Connected {
        place: usize,
    },
    Disconnected {
        place: usize,
    },
    Sent {
        place: usize,
        revision: u8,
    },
    Applied {
        place: usize,
        revision: u8,
    },
    Reported {
        place: usize,
        report: ReportOf,
    },
    /// A follower tells of the sidecar, which is connected to it.
    Forwarded {
        place: usize,
        revision: u8,
        report: ReportOf,
    },
    ForwardedRevision {
        place: usize,
        sent: Option<u8>,
        applied: Option<u8>,
    },
    /// The API server asks the webhook.
    WebhookCalled,
    Passed {
        seconds: u64,
    },
    /// This replica begins to lead.
    Leads,
}

/// What a report says.
#[derive(Clone, Debug)]
pub struct ReportOf {
    pub kind: usize,
    pub state: usize,
    pub since: i64,
    pub applied: u8,
}

pub fn report_of() -> impl Strategy<Value = ReportOf> {
    (0..6_usize, 0..Reachability::ALL.len(), 0..3_i64, 0..3_u8).prop_map(|(kind, state, since, applied)| {
        ReportOf {
            kind,
            state,
            since,
            applied,
        }
    })
}

pub fn happening() -> impl Strategy<Value = Happening> {
    let place = || 0..6_usize;
    let revision = || prop::option::of(0..3_u8);
    prop_oneof![
        4 => (place(), 0..LABELS.len(), 0..ANNOTATIONS.len(), 0..OWNERS.len(), 0..120_i64).prop_map(
            |(place, labels, annotations, owner, age)| {
                Happening::Created { place, labels, annotations, owner, age }
            }
        ),
        1 => (place(), 0..LABELS.len())
            .prop_map(|(place, labels)| Happening::Relabelled { place, labels }),
        1 => (place(), 0..ANNOTATIONS.len())
            .prop_map(|(place, annotations)| Happening::Annotated { place, annotations }),
        1 => place().prop_map(|place| Happening::Ending { place }),
        1 => place().prop_map(|place| Happening::Gone { place }),
        4 => place().prop_map(|place| Happening::Connected { place }),
        2 => place().prop_map(|place| Happening::Disconnected { place }),
        4 => (place(), 0..3_u8).prop_map(|(place, revision)| Happening::Sent { place, revision }),
        4 => (place(), 0..3_u8).prop_map(|(place, revision)| Happening::Applied { place, revision }),
        4 => (place(), report_of()).prop_map(|(place, report)| Happening::Reported { place, report }),
        2 => (place(), 0..3_u8, report_of())
            .prop_map(|(place, revision, report)| Happening::Forwarded { place, revision, report }),
        2 => (place(), revision(), revision())
            .prop_map(|(place, sent, applied)| Happening::ForwardedRevision { place, sent, applied }),
        1 => Just(Happening::WebhookCalled),
        3 => (0..70_u64).prop_map(|seconds| Happening::Passed { seconds }),
        1 => Just(Happening::Leads),
    ]
}

pub fn report(of: &ReportOf) -> Report {
    let ReportOf {
        kind,
        state,
        since,
        applied,
    } = *of;
    let reachability = |server: &str, state: Reachability| ServerReachability {
        server: server.into(),
        state,
        since,
        detail: format!("since {since}"),
    };
    let all = Reachability::ALL;
    let reported = Report {
        applied: Some(applied.to_string()),
        reachability: vec![
            reachability(SERVERS[0], all[state]),
            reachability(SERVERS[1], all[(state + since as usize) % all.len()]),
        ],
        ..Report::default()
    };
    match kind {
        0 => Report {
            version: "0.0.9".into(),
            ..reported
        },
        1 => Report {
            problems: vec![Problem::new("ConfigNotYaml", "bad")],
            ..reported
        },
        2 => Report {
            restart_needed_for: vec!["tools".into()],
            ..reported
        },
        3 => Report {
            notices: vec![Problem::new("ServerUnderOtherName", "mcp_servers.crm").for_server("tools")],
            ..reported
        },
        4 => Report {
            notices: vec![Problem::new("ClientsCountAsExternal", "set it")],
            ..reported
        },
        _ => reported,
    }
}
