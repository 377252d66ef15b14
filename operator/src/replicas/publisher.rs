//! One follower's stream, at the leader: everything that is published, and again whatever of it changes. What the
//! follower says of its sidecars is entered as if they were connected here.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use jiff::Timestamp;
use mcp_auth_credentials::{ReplicatedCredential, ResourceRef, TokenRefreshRequest};
use mcp_auth_protocol::bounds::MAX_REPORT_BYTES;
use mcp_auth_protocol::sync::CONTENT_TYPE;
use mcp_auth_protocol::timeouts::HEARTBEAT;
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, debug, info, info_span, warn};

use super::Replicas;
use super::messages::{FollowerLine, LeaderLine, line};
use crate::refused_pods::RefusedPod;
use crate::sidecars::{ForwardedSidecar, SidecarEntry, Sidecars};
use crate::sync::{LineError, SyncError, lines};

/// A follower that sends no first line within this time is disconnected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A follower that reads nothing for this long is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Changes within this time of one another are looked for once.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A report, and what is beside it.
const MAX_FOLLOWER_LINE_BYTES: usize = 2 * MAX_REPORT_BYTES;

pub async fn open(State(replicas): State<Replicas>, request: Request) -> Response {
    match accept(replicas, request).await {
        Ok(response) => response,
        Err(error) => {
            match error {
                // It learns of the next leader by the Lease.
                SyncError::NotLeading => debug!(%error, "a replica was sent on"),
                _ => warn!(reason = error.reason(), %error, "a replica was refused"),
            }
            error.into_response()
        }
    }
}

async fn accept(replicas: Replicas, request: Request) -> Result<Response, SyncError> {
    let (head, body) = request.into_parts();
    let authenticated = replicas
        .authenticator
        .authenticate_replica(&head, &replicas.account)
        .await?;
    if !*replicas.leads.borrow() {
        return Err(SyncError::NotLeading);
    }
    let mut follower_lines = Box::pin(lines::<FollowerLine>(
        body.into_data_stream(),
        MAX_FOLLOWER_LINE_BYTES,
    ));
    let hello = tokio::time::timeout(HELLO_TIMEOUT, follower_lines.next()).await;
    let Ok(Some(Ok(FollowerLine::Hello { identity, version }))) = hello else {
        return Err(SyncError::NoReport("a replica begins with its name".into()));
    };
    let (sender, receiver) = mpsc::channel(16);
    let span = info_span!("follower", pod = authenticated.name, identity);
    info!(parent: &span, version, "a replica follows");
    tokio::spawn(serve(replicas, follower_lines, sender).instrument(span));
    let body = futures::stream::unfold(receiver, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(line), lines))
    });
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from_stream(body)).into_response())
}

/// Runs until either side ends the stream or this replica no longer leads.
async fn serve(
    replicas: Replicas,
    follower_lines: impl futures::Stream<Item = Result<FollowerLine, LineError>> + Send,
    sender: mpsc::Sender<Bytes>,
) {
    let mut published = Published::new(&replicas);
    let mut sidecars = FollowersSidecars::default();
    let mut follower_lines = pin!(follower_lines);
    let mut leads = replicas.leads.clone();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut counted = None;
    let mut is_unreadable_told = false;
    let why = loop {
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() { break "the operator is stopping" }
                tokio::time::sleep(DEBOUNCE).await;
                if !deliver_all(&sender, published.next_lines(&replicas)).await { break "it went away" }
                if counted.is_none() {
                    let complete = line(&LeaderLine::Complete {
                        reads_revisions: true,
                        reads_shared_revisions: true,
                    });
                    if !deliver(&sender, complete).await { break "it went away" }
                    counted = Some(replicas.followers.enter());
                }
            }
            said = follower_lines.next() => match said {
                Some(Ok(said)) => take_over(&replicas, &mut sidecars, said),
                // The error may repeat what stands in the line.
                Some(Err(LineError::NotAReport(_))) => if !std::mem::replace(&mut is_unreadable_told, true) {
                    warn!("a line of a replica cannot be read and is left out; it may be of another version");
                },
                Some(Err(error)) => {
                    warn!(%error, "a line could not be read");
                    break "a line could not be read"
                }
                None => break "it went away",
            },
            _ = heartbeat.tick() => {
                if !deliver(&sender, Bytes::from_static(b"\n")).await { break "it went away" }
                sidecars.0.values().for_each(|(_, entry)| entry.tell_if_overdue());
            }
            () = lead_lost(&mut leads) => break "this replica does not lead any more",
        }
    };
    info!(why, "a replica does not follow any more");
}

async fn lead_lost(leads: &mut watch::Receiver<bool>) {
    // An error means that the operator is stopping.
    let _ = leads.wait_for(|leads| !leads).await;
}

/// What one follower has been given.
struct Published {
    changes: watch::Receiver<u64>,
    revision: u64,
    user_token_changes: watch::Receiver<u64>,
    user_token_revision: u64,
    refusals: watch::Receiver<u64>,
    refusal_revision: u64,
    resources: HashSet<ResourceRef>,
}

impl Published {
    fn new(replicas: &Replicas) -> Self {
        let mut changes = replicas.credentials.subscribe();
        changes.mark_changed();
        Self {
            changes,
            revision: 0,
            user_token_changes: replicas.credentials.user_tokens().subscribe(),
            user_token_revision: 0,
            refusals: replicas.refused.subscribe(),
            refusal_revision: 0,
            resources: HashSet::new(),
        }
    }

    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.changes.changed() => changed,
            changed = self.user_token_changes.changed() => changed,
            changed = self.refusals.changed() => changed,
        }
    }

    /// What has changed since the last time.
    fn next_lines(&mut self, replicas: &Replicas) -> Vec<Bytes> {
        let revision = *self.changes.borrow_and_update();
        let mut lines = Vec::new();
        for (ResourceRef { namespace, name }, state) in replicas.credentials.changed_since(self.revision) {
            let credential = serde_json::to_value(ReplicatedCredential::from(&state));
            let credential = credential.expect("a credential is plain values");
            lines.push(line(&LeaderLine::Published {
                namespace,
                name,
                credential,
            }));
        }
        let resources = replicas.credentials.resources();
        for ResourceRef { namespace, name } in self.resources.difference(&resources).cloned() {
            lines.push(line(&LeaderLine::Withdrawn { namespace, name }));
        }
        self.resources = resources;
        self.revision = revision;
        // After the resources that they are for: what is withdrawn is forgotten with its users' tokens.
        let user_tokens = replicas.credentials.user_tokens();
        let revision = *self.user_token_changes.borrow_and_update();
        for token in user_tokens.recorded_since(self.user_token_revision) {
            let token = serde_json::to_value(token).expect("a token is plain values");
            lines.push(line(&LeaderLine::UserToken { token }));
        }
        self.user_token_revision = revision;
        let revision = *self.refusals.borrow_and_update();
        for pod in replicas.refused.recorded_since(self.refusal_revision) {
            let pod = Box::new(RefusedPod::clone(&pod));
            lines.push(line(&LeaderLine::PodRefused { pod }));
        }
        self.refusal_revision = revision;
        lines
    }
}

/// What a follower has told of its sidecars, by the uids of their pods.
#[derive(Default)]
struct FollowersSidecars(HashMap<String, (u64, SidecarEntry)>);

impl FollowersSidecars {
    /// A sidecar that has connected anew, as after it was at another replica for a while, is entered anew: its entry here may no longer
    /// be the newest.
    fn take_over(&mut self, sidecars: &Sidecars, uid: String, sidecar: ForwardedSidecar) {
        let known = self.0.get(&uid);
        if known.is_none_or(|(connection, _)| *connection != sidecar.connection) {
            let entry = sidecars.enter(&uid, &sidecar.namespace, &sidecar.name);
            self.0.insert(uid.clone(), (sidecar.connection, entry));
        }
        if let Some(entry) = self.get(&uid) {
            entry.record_forwarded(sidecar);
        }
    }

    fn get(&self, uid: &str) -> Option<&SidecarEntry> {
        self.0.get(uid).map(|(_, entry)| entry)
    }
}

fn take_over(replicas: &Replicas, sidecars: &mut FollowersSidecars, said: FollowerLine) {
    match said {
        FollowerLine::Sidecar { uid, sidecar } => {
            sidecars.take_over(&replicas.sidecars, uid, *sidecar);
        }
        FollowerLine::SidecarRevision { uid, sent, applied } => {
            if let Some(entry) = sidecars.get(&uid) {
                entry.record_forwarded_revision(sent, applied);
            }
        }
        FollowerLine::SidecarsRevision { uids, sent, applied } => {
            for entry in uids.iter().filter_map(|uid| sidecars.get(uid)) {
                entry.record_forwarded_revision(sent.clone(), applied.clone());
            }
        }
        FollowerLine::SidecarGone { uid } => drop(sidecars.0.remove(&uid)),
        FollowerLine::PodRefused { pod } => replicas.refused.record(*pod, Timestamp::now()),
        FollowerLine::Refresh {
            namespace,
            name,
            token,
            why,
        } => replicas.token_refresh_requests.send(TokenRefreshRequest {
            resource: ResourceRef { namespace, name },
            token,
            why,
        }),
        FollowerLine::Hello { .. } | FollowerLine::Unknown => {}
    }
}

async fn deliver_all(sender: &mpsc::Sender<Bytes>, lines: Vec<Bytes>) -> bool {
    for line in lines {
        if !deliver(sender, line).await {
            return false;
        }
    }
    true
}

/// False if the follower has disconnected, or reads nothing any more.
async fn deliver(sender: &mpsc::Sender<Bytes>, line: Bytes) -> bool {
    matches!(
        tokio::time::timeout(SEND_TIMEOUT, sender.send(line)).await,
        Ok(Ok(()))
    )
}

#[cfg(test)]
mod tests {
    use mcp_auth_protocol::sync::Report;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_was_at_the_leader_for_a_while_is_known_when_it_comes_back_to_the_follower() {
        let (sidecars, _changed) = Sidecars::new();
        let mut of_follower = FollowersSidecars::default();
        let forwarded = |connection, applied: &str| ForwardedSidecar {
            namespace: "apps".into(),
            name: "litellm-0".into(),
            sent_revision: Some(applied.into()),
            report: Report {
                applied: Some(applied.into()),
                ..Report::default()
            },
            connection,
        };
        let applied = || sidecars.get("uid").and_then(|known| known.applied.clone());
        of_follower.take_over(&sidecars, "uid".into(), forwarded(1, "1"));
        let at_leader = sidecars.enter("uid", "apps", "litellm-0");
        at_leader.record_applied("2".into());
        // The follower has not noticed the end of the old connection, and tells of the new one alone.
        of_follower.take_over(&sidecars, "uid".into(), forwarded(2, "3"));
        drop(at_leader);
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        assert_eq!(applied().as_deref(), Some("3"));
        of_follower.take_over(&sidecars, "uid".into(), forwarded(2, "4"));
        assert_eq!(applied().as_deref(), Some("4"));
    }
}
