//! Follows the replica that leads: takes over what it publishes, and tells it of the sidecars that are connected here
//! and of the tokens that their MCP servers reject.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::body::Bytes;
use bytes::BytesMut;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use mcp_auth_credentials::{
    Credentials, ReplicatedCredential, ReplicatedCredentialError, ReplicatedUserToken, ResourceRef,
    TokenRefreshQueue,
};
use mcp_auth_protocol::timeouts::{HEARTBEAT, SYNC_SILENCE};
use mcp_auth_resilience::exponential;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::messages::{FollowerLine, LeaderLine, MAX_LINE_BYTES, line};
use crate::leader::Leader;
use crate::leader_client::{LeaderClient, LeaderError};
use crate::refused_pods::{RefusedPod, RefusedPods};
use crate::resources::Resources;
use crate::sidecars::{SidecarChange, Sidecars};
use crate::sync::{LineError, lines};

/// First and longest wait between two attempts. The lead changes within seconds, and there are few replicas.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a replica serves from memory while another one leads that it cannot follow: sidecars then had better
/// go elsewhere.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Changes of sidecars within this time of one another are told together: of a sidecar that is sent a snapshot and takes it
/// over meanwhile the leader hears once.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Sidecars of one line; with more it would become too long for a leader to read.
const MAX_UIDS: usize = 1000;
/// Lines are sent together up to about this size.
const CHUNK_BYTES: usize = 64 * 1024;

/// What follows, while this replica does not lead.
pub struct Follower {
    pub client: LeaderClient,
    /// Name and version of this replica, for the leader's log.
    pub identity: String,
    pub credentials: Credentials,
    pub resources: Resources,
    pub sidecars: Sidecars,
    pub refused: RefusedPods,
    /// Whether this replica leads, or knows the tokens of the one that does.
    pub knows_tokens: watch::Sender<bool>,
}

#[derive(Debug, Error)]
enum FollowError {
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error("nothing came for {} s", SYNC_SILENCE.as_secs())]
    Silent,
    #[error("the stream has ended")]
    Ended,
    #[error("another replica leads now")]
    LeadChanged,
    #[error("the stream broke: {0}")]
    Broken(std::io::Error),
    /// More would repeat what stands in it.
    #[error("a line cannot be read; the replicas may be of different versions")]
    Unreadable,
}

impl From<LineError> for FollowError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Broken(error) => Self::Broken(error),
            LineError::TooLong(_) | LineError::NotUtf8 | LineError::NotAReport(_) => Self::Unreadable,
        }
    }
}

#[derive(Debug, Error)]
enum CredentialError {
    #[error("it is of another version")]
    OtherVersion,
    #[error(transparent)]
    Invalid(#[from] ReplicatedCredentialError),
}

impl Follower {
    /// Follows for as long as it is polled. Requests that cannot be passed on stay in their queue.
    pub async fn run(&self, requests: &mut TokenRefreshQueue) -> Infallible {
        let mut failures = 0;
        let mut last_logged = None;
        let mut lost_since: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let mut is_complete = false;
            let Err(error) = self.follow(requests, &mut is_complete).await;
            if is_complete {
                (failures, lost_since, last_logged) = (0, None, None);
            }
            let is_led = matches!(
                *self.client.leader().borrow(),
                Leader::Other {
                    is_confirmed: true,
                    ..
                }
            );
            match is_led {
                true => drop(lost_since.get_or_insert(began)),
                // Nobody is known to have newer tokens.
                false => lost_since = None,
            }
            if lost_since.is_some_and(|since| since.elapsed() >= LOST_AFTER) {
                self.knows_tokens.send_if_modified(std::mem::take);
            }
            let message = error.to_string();
            match (&error, last_logged.as_ref() == Some(&message)) {
                (FollowError::Leader(LeaderError::NoLeader) | FollowError::LeadChanged, _) | (_, true) => {
                    debug!(error = message, "not following");
                }
                (FollowError::Ended | FollowError::Broken(_), false) if is_complete => {
                    info!(
                        error = message,
                        "the leader ended the stream; serving from memory"
                    );
                }
                (_, false) => {
                    warn!(
                        error = message,
                        "the replica that leads cannot be followed; serving from memory"
                    );
                    last_logged = Some(message);
                }
            }
            // A change of the lead cuts the wait short.
            let mut leader = self.client.leader();
            leader.mark_unchanged();
            let wait = exponential(BACKOFF.0, failures, BACKOFF.1);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = sleep(wait) => {}
                changed = leader.changed() => if changed.is_err() { sleep(wait).await },
            }
        }
    }

    async fn follow(
        &self,
        requests: &mut TokenRefreshQueue,
        is_complete: &mut bool,
    ) -> Result<Infallible, FollowError> {
        let mut leader = self.client.leader();
        let address = address(*leader.borrow_and_update());
        let (sender, receiver) = mpsc::channel::<Bytes>(16);
        let hello = FollowerLine::Hello {
            identity: self.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // There is room for it.
        let _ = sender.try_send(line(&hello));
        let body = futures::stream::unfold(receiver, |mut lines| async move {
            let line = lines.recv().await?;
            Some((Ok::<Bytes, Infallible>(line), lines))
        });
        let response = timeout(SYNC_SILENCE, self.client.follow(reqwest::Body::wrap_stream(body))).await;
        let response = response.map_err(|_| FollowError::Silent)??;
        let lines = lines::<LeaderLine>(response.bytes_stream(), MAX_LINE_BYTES);
        let exchanging = self.exchange(lines, sender, requests, is_complete);
        let led_by_another = async {
            while leader.changed().await.is_ok() {
                if self::address(*leader.borrow_and_update()) != address {
                    break;
                }
            }
        };
        tokio::select! {
            ended = exchanging => ended,
            () = led_by_another => Err(FollowError::LeadChanged),
        }
    }

    /// Takes over what the leader says and tells it what there is here, until one of them ends.
    async fn exchange(
        &self,
        lines: impl Stream<Item = Result<LeaderLine, LineError>>,
        sender: mpsc::Sender<Bytes>,
        requests: &mut TokenRefreshQueue,
        is_complete: &mut bool,
    ) -> Result<Infallible, FollowError> {
        let mut lines = pin!(lines);
        let mut outbox = Outbox::new(sender);
        let mut told = SidecarsTold::new(&self.sidecars);
        let mut told_at: Option<Instant> = None;
        let mut refusals = self.refused.subscribe();
        refusals.mark_changed();
        let mut refusals_told = 0;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut published = HashSet::new();
        let mut is_unreadable_told = false;
        loop {
            tokio::select! {
                // Heartbeats of the leader are no lines; HTTP/2's own pings tell whether it lives.
                said = lines.next() => match unless_unreadable(said.ok_or(FollowError::Ended)?, &mut is_unreadable_told)? {
                    LeaderLine::Published { namespace, name, credential } => {
                        let resource = ResourceRef { namespace, name };
                        self.publish(&resource, credential);
                        if !*is_complete {
                            published.insert(resource);
                        }
                    }
                    LeaderLine::Withdrawn { namespace, name } => {
                        self.credentials.withdraw(&ResourceRef { namespace, name });
                    }
                    LeaderLine::UserToken { token } => self.record_user_token(token),
                    // Told to the leader in return, which knows it.
                    LeaderLine::PodRefused { pod } => self.refused.record(*pod, Timestamp::now()),
                    LeaderLine::Complete { reads_revisions, reads_shared_revisions } => {
                        *is_complete = true;
                        self.withdraw_gone(&std::mem::take(&mut published));
                        told.reads_revisions = reads_revisions;
                        told.reads_shared_revisions = reads_shared_revisions;
                        info!("following the replica that leads");
                        self.knows_tokens.send_replace(true);
                    }
                    LeaderLine::Unknown => {}
                },
                // Meanwhile the leader is read all the same: it may read nothing itself before it has sent what it has.
                sent = outbox.send_next(), if !outbox.is_empty() => sent?,
                changed = told.changed(), if told_at.is_none() => {
                    if changed.is_err() { return Err(FollowError::Ended) }
                    told_at = Some(Instant::now() + DEBOUNCE);
                }
                // Meanwhile what the leader publishes is taken over.
                () = sleep_until(told_at.unwrap_or_else(Instant::now)), if told_at.is_some() && outbox.is_empty() => {
                    told_at = None;
                    in_chunks(&told.next_messages(&self.sidecars)).into_iter().for_each(|lines| outbox.push(lines));
                }
                changed = refusals.changed(), if outbox.is_empty() => {
                    if changed.is_err() { return Err(FollowError::Ended) }
                    let newest = *refusals.borrow_and_update();
                    for pod in self.refused.recorded_since(refusals_told) {
                        outbox.push(line(&FollowerLine::PodRefused { pod: Box::new(RefusedPod::clone(&pod)) }));
                    }
                    refusals_told = newest;
                }
                // What has to wait stays in its queue, which is bounded.
                request = requests.recv(), if *is_complete && outbox.is_empty() => outbox.push(line(&FollowerLine::from(request))),
                _ = heartbeat.tick(), if outbox.is_empty() => outbox.push(Bytes::from_static(b"\n")),
            }
        }
    }

    /// What was deleted while this replica followed no leader, be it created again since. Of a resource that is there the leader
    /// may yet publish what it has.
    fn withdraw_gone(&self, published: &HashSet<ResourceRef>) {
        let unpublished = self.credentials.resources().into_iter();
        let unpublished = unpublished.filter(|resource| !published.contains(resource));
        for resource in self.resources.gone(unpublished, &self.credentials) {
            self.credentials.withdraw(&resource);
        }
    }

    fn record_user_token(&self, token: serde_json::Value) {
        let taken_over = serde_json::from_value::<ReplicatedUserToken>(token)
            .map_err(|_| CredentialError::OtherVersion)
            .and_then(|token| Ok(self.credentials.user_tokens().take_over(token)?));
        if let Err(error) = taken_over {
            debug!(%error, "a user's token that the leader has cannot be read");
        }
    }

    /// What the leader has now of a resource.
    fn publish(&self, resource: &ResourceRef, credential: serde_json::Value) {
        let credential = serde_json::from_value::<ReplicatedCredential>(credential)
            .map_err(|_| CredentialError::OtherVersion)
            .and_then(|credential| Ok(credential.into_state()?));
        match credential {
            Ok(state) => self.credentials.publish(resource, state),
            Err(error) => {
                let ResourceRef { namespace, name } = resource;
                warn!(namespace, name, %error, "what the leader has for this resource cannot be read");
            }
        }
    }
}

/// What the leader has been told of the sidecars.
struct SidecarsTold {
    changes: watch::Receiver<u64>,
    revision: u64,
    /// Whether the leader reads what has changed of a sidecar in place of the whole.
    reads_revisions: bool,
    /// Whether it reads that of many sidecars at once.
    reads_shared_revisions: bool,
}

impl SidecarsTold {
    fn new(sidecars: &Sidecars) -> Self {
        let mut changes = sidecars.subscribe();
        changes.mark_changed();
        Self {
            changes,
            revision: 0,
            reads_revisions: false,
            reads_shared_revisions: false,
        }
    }

    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.changes.changed().await
    }

    /// What has changed since the last time.
    fn next_messages(&mut self, sidecars: &Sidecars) -> Vec<FollowerLine> {
        let revision = *self.changes.borrow_and_update();
        let changed = sidecars
            .changed_since(self.revision, self.reads_revisions)
            .into_iter();
        self.revision = revision;
        let mut shared: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let mut messages = Vec::new();
        for (uid, change) in changed {
            match change {
                SidecarChange::Whole(sidecar) => messages.push(FollowerLine::Sidecar { uid, sidecar }),
                SidecarChange::Revision { sent, applied } if self.reads_shared_revisions => {
                    shared.entry((sent, applied)).or_default().push(uid);
                }
                SidecarChange::Revision { sent, applied } => {
                    messages.push(FollowerLine::SidecarRevision { uid, sent, applied });
                }
                SidecarChange::Gone => messages.push(FollowerLine::SidecarGone { uid }),
            }
        }
        for ((sent, applied), uids) in shared {
            messages.extend(uids.chunks(MAX_UIDS).map(|uids| FollowerLine::SidecarsRevision {
                uids: uids.to_vec(),
                sent: sent.clone(),
                applied: applied.clone(),
            }));
        }
        messages
    }
}

/// Lines in few pieces: each piece is a frame, and what a fleet says after one renewal is thousands of lines.
fn in_chunks(messages: &[FollowerLine]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut chunk = BytesMut::new();
    for message in messages {
        chunk.extend_from_slice(&line(message));
        if chunk.len() >= CHUNK_BYTES {
            chunks.push(chunk.split().freeze());
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk.freeze());
    }
    chunks
}

/// A line that the leader's version says in another way costs what it is about, and no other line.
fn unless_unreadable(
    said: Result<LeaderLine, LineError>,
    is_told: &mut bool,
) -> Result<LeaderLine, LineError> {
    match said {
        Err(LineError::NotAReport(_)) => {
            // The error may repeat what stands in the line.
            if !std::mem::replace(is_told, true) {
                warn!(
                    "a line of the leader cannot be read and is left out; the replicas may be of different versions"
                );
            }
            Ok(LeaderLine::Unknown)
        }
        said => said,
    }
}

fn address(leader: Leader) -> Option<std::net::SocketAddr> {
    match leader {
        Leader::Other { address, .. } => address,
        Leader::Unknown | Leader::ThisReplica => None,
    }
}

/// Lines on their way to the leader.
struct Outbox {
    sender: mpsc::Sender<Bytes>,
    waiting: VecDeque<Bytes>,
    /// When the first one of them became the next.
    since: Instant,
}

impl Outbox {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
            since: Instant::now(),
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn push(&mut self, lines: Bytes) {
        if self.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.push_back(lines);
    }

    /// Sends the next one as soon as there is room for it. Whoever gives this up loses nothing.
    async fn send_next(&mut self) -> Result<(), FollowError> {
        let room = timeout_at(self.since + SYNC_SILENCE, self.sender.reserve()).await;
        let room = room
            .map_err(|_| FollowError::Silent)?
            .map_err(|_| FollowError::Ended)?;
        if let Some(lines) = self.waiting.pop_front() {
            room.send(lines);
        }
        self.since = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
