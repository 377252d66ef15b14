//! Upwards: the state of one sidecar.

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::reachability::ServerReachability;

/// The state of one sidecar.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which pod the sidecar believes to be in; must be the pod its token is bound to.
    pub pod: Pod,
    /// Version of the sidecar.
    pub version: String,
    /// What it reads besides what every version reads. None of a sidecar that is too old to say.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub capabilities: Vec<Capability>,
    /// Revision of the snapshot in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// In place of all that follows and of [`Self::applied`]: it is as in the stream's report before, but for this
    /// revision, which is in use now. Sent to operators that name [`Capability::Acknowledgements`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// Servers that LiteLLM does not know of before its pod is restarted, because it reads its configuration
    /// only at start.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub restart_needed_for: Vec<String>,
    /// What keeps the sidecar from doing its work.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub problems: Vec<Problem>,
    /// What does not keep it from that, and all the same wants attention, such as two statements that
    /// contradict each other.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub notices: Vec<Problem>,
    /// Tokens in use that an MCP server rejects: at most one for each server, gone once the sidecar has
    /// another token.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub refused: Vec<RejectedToken>,
    /// What the sidecar has learned of each server of the snapshot in use. None of a sidecar that is too old to say.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub reachability: Vec<ServerReachability>,
}

/// What newer versions read: each side does without what the other does not name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Capability {
    /// The sidecar reads [`SnapshotDelta`](super::SnapshotDelta).
    Deltas,
    /// The operator reads [`Report::acknowledged`].
    Acknowledgements,
    /// The sidecar answers a [`QUESTION`](super::QUESTION) with an empty line.
    Answers,
    /// The operator takes a stream out of HTTP that asks for [`UPGRADE`](super::UPGRADE).
    Upgrade,
}

/// A token that an MCP server rejected: the operator is to request a better one, once for all sidecars that
/// say the same.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedToken {
    pub server: String,
    /// [`Credential::Bearer::id`].
    pub token: String,
    pub why: RejectionCause,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RejectionCause {
    /// 401, in any form but one.
    Unauthorized,
    /// 403 with `insufficient_scope` (RFC 6750 section 3.1), and the scopes that the challenge names.
    InsufficientScope(Vec<String>),
}

#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A problem, in a form that conditions, events and logs can carry as it is.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Closed set, CamelCase.
    pub reason: String,
    /// Names the field or file and the way out; never holds a secret.
    pub message: String,
    /// The server that it is about; all of the pod's, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

impl Problem {
    /// A problem of the whole pod.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            server: None,
        }
    }

    /// The same problem, of one server only.
    pub fn for_server(self, server: impl Into<String>) -> Self {
        Self {
            server: Some(server.into()),
            ..self
        }
    }
}
