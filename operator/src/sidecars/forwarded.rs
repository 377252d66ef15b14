//! A sidecar as replicas tell one another of it.

use mcp_auth_protocol::sync::Report;
use serde::{Deserialize, Serialize};

use super::Sidecar;

/// What a follower tells the leader of a sidecar that is connected to it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardedSidecar {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub sent_revision: Option<String>,
    #[serde(default)]
    pub report: Report,
    /// Number of the sidecar's connections at the follower, beginning with 1; 0 by a follower that does not tell it.
    #[serde(default)]
    pub connection: u64,
}

impl ForwardedSidecar {
    pub fn new(sidecar: &Sidecar, connection: u64) -> Self {
        let Sidecar {
            namespace,
            name,
            version,
            sent_revision,
            // The leader's own clock tells since when.
            sent_at: _,
            applied,
            restart_needed_for,
            problems,
            notices,
            reachability,
            is_awaited: _,
        } = sidecar.clone();
        Self {
            namespace,
            name,
            sent_revision,
            report: Report {
                version,
                applied,
                restart_needed_for,
                problems,
                notices,
                reachability: reachability.to_vec(),
                ..Report::default()
            },
            connection,
        }
    }
}
