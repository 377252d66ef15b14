//! Downwards: what has changed of a pod's state since the line before, for sidecars that say that they read it
//! ([`Capability::Deltas`](super::Capability::Deltas)). With a hundred servers the whole state is a hundred times as much.

use serde::{Deserialize, Serialize};

use super::lenient;
use super::snapshot::{Server, Snapshot, UnreadableServer};

/// The change from one snapshot of a stream to the next. What is not in it stays what it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDelta {
    /// Of the snapshot that it leads to. Echoed in [`Report::applied`](super::Report::applied).
    pub revision: String,
    /// Revision of the snapshot that it changes, which is the one before on the same stream.
    pub base: String,
    /// Each that is new or changed, whole; sorted by [`Route::server`](super::Route::server).
    pub servers: Vec<Server>,
    /// [`Route::server`](super::Route::server) of each that is gone.
    pub removed: Vec<String>,
    /// As in [`Snapshot::sent_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<i64>,
    /// What stood in the line besides `servers` and could not be read. Never sent.
    #[serde(skip_serializing)]
    pub unreadable: Vec<UnreadableServer>,
}

/// One line downwards. The first of a stream is a whole snapshot.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(try_from = "lenient::Line")]
pub enum SnapshotLine {
    Whole(Snapshot),
    Delta(SnapshotDelta),
}
