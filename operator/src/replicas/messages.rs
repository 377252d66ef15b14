//! What replicas of the operator tell one another: newline-delimited JSON in both bodies of one request. Empty lines
//! are heartbeats. Replicas of two versions meet during an upgrade: what one does not know, it leaves out.

use axum::body::Bytes;
use mcp_auth_credentials::{ResourceRef, TokenRefreshRequest};
use mcp_auth_protocol::sync::RejectionCause;
use serde::{Deserialize, Serialize};

use crate::refused_pods::RefusedPod;
use crate::sidecars::ForwardedSidecar;

/// Longest line: the credential of one resource, with its certificates.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// From the leader. No `Debug`: it holds tokens.
#[derive(Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LeaderLine {
    /// What was published for a resource.
    Published {
        namespace: String,
        name: String,
        /// A [`mcp_auth_credentials::ReplicatedCredential`]. Read on its own, so that one that this version does
        /// not understand costs this resource and no other.
        credential: serde_json::Value,
    },
    /// The resource is gone.
    Withdrawn { namespace: String, name: String },
    /// A user's own token.
    UserToken {
        /// A [`mcp_auth_credentials::ReplicatedUserToken`], read on its own as well.
        token: serde_json::Value,
    },
    /// A webhook has refused a pod, the leader's own or another follower's: one that leads next has to know.
    PodRefused { pod: Box<RefusedPod> },
    /// The follower has everything that there is.
    Complete {
        /// Whether the leader reads [`FollowerLine::SidecarRevision`].
        #[serde(default)]
        reads_revisions: bool,
        /// Whether it reads [`FollowerLine::SidecarsRevision`].
        #[serde(default)]
        reads_shared_revisions: bool,
    },
    #[serde(other)]
    Unknown,
}

/// To the leader.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FollowerLine {
    /// The first line.
    Hello {
        identity: String,
        version: String,
    },
    /// A sidecar is connected to the follower, or something about it has changed.
    Sidecar {
        uid: String,
        #[serde(flatten)]
        sidecar: Box<ForwardedSidecar>,
    },
    /// A sidecar is as the follower said before, but for these.
    SidecarRevision {
        uid: String,
        #[serde(default)]
        sent: Option<String>,
        #[serde(default)]
        applied: Option<String>,
    },
    /// The same of many sidecars, which were sent the same snapshot and have taken the same one over.
    SidecarsRevision {
        uids: Vec<String>,
        #[serde(default)]
        sent: Option<String>,
        #[serde(default)]
        applied: Option<String>,
    },
    SidecarGone {
        uid: String,
    },
    /// The follower's webhook has refused a pod.
    PodRefused {
        pod: Box<RefusedPod>,
    },
    /// An MCP server rejected a token.
    Refresh {
        namespace: String,
        name: String,
        token: String,
        why: RejectionCause,
    },
    #[serde(other)]
    Unknown,
}

impl From<TokenRefreshRequest> for FollowerLine {
    fn from(request: TokenRefreshRequest) -> Self {
        let ResourceRef { namespace, name } = request.resource;
        Self::Refresh {
            namespace,
            name,
            token: request.token,
            why: request.why,
        }
    }
}

pub fn line(message: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(message).expect("a message is plain values");
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_says_is_left_out_and_names_on_the_wire_stay() {
        let lines = [
            (r#"{"kind":"complete","more":1}"#, "complete"),
            (
                r#"{"kind":"withdrawn","namespace":"apps","name":"tools"}"#,
                "withdrawn",
            ),
            (r#"{"kind":"fromTheFuture","namespace":"apps"}"#, "unknown"),
        ];
        for (text, expected) in lines {
            let kind = match serde_json::from_str(text).unwrap() {
                LeaderLine::Published { .. } => "published",
                LeaderLine::Withdrawn { .. } => "withdrawn",
                LeaderLine::UserToken { .. } => "userToken",
                LeaderLine::PodRefused { .. } => "podRefused",
                LeaderLine::Complete { .. } => "complete",
                LeaderLine::Unknown => "unknown",
            };
            assert_eq!(kind, expected, "{text}");
        }
        // An older leader says no more than that.
        let complete = serde_json::from_str(r#"{"kind":"complete"}"#).unwrap();
        assert!(matches!(
            complete,
            LeaderLine::Complete {
                reads_revisions: false,
                reads_shared_revisions: false,
            }
        ));
        let unknown: FollowerLine = serde_json::from_str(r#"{"kind":"fromTheFuture"}"#).unwrap();
        assert!(matches!(unknown, FollowerLine::Unknown));
        let sidecar = FollowerLine::Sidecar {
            uid: "u1".into(),
            sidecar: Box::new(ForwardedSidecar {
                namespace: "apps".into(),
                name: "litellm-0".into(),
                sent_revision: Some("1".into()),
                report: mcp_auth_protocol::sync::Report::default(),
                connection: 1,
            }),
        };
        let text = serde_json::to_value(&sidecar).unwrap();
        assert_eq!((&text["kind"], &text["uid"]), (&"sidecar".into(), &"u1".into()));
        assert_eq!(text["sentRevision"], "1");
        let again: FollowerLine = serde_json::from_value(text).unwrap();
        assert!(matches!(again, FollowerLine::Sidecar { uid, .. } if uid == "u1"));
    }
}
