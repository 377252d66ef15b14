//! One sidecar's stream: the whole state of its pod at once, and whatever changes of it from then on; the whole again for
//! sidecars that read nothing else.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_stream::stream;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use mcp_auth_credentials::{ResourceRef, TokenRefreshRequest};
use mcp_auth_protocol::sync::{CONTENT_TYPE, Capability, Pod, RejectedToken, Report};
use mcp_auth_protocol::timeouts::{HEARTBEAT, SYNC_SILENCE};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{Span, debug, info, info_span, warn};

use super::answers::Answers;
use super::authenticate::{agree, place};
use super::lines::{Line, LineError, Reports, reports};
use super::snapshots::{Group, SerialisedSnapshot};
use super::upgrade::{StreamUpgrade, pieces, switching_protocols};
use super::{Sync, SyncError};
use crate::connection_bounds::Place;
use crate::pods::WatchedPod;
use crate::shares::{Share, ShareLimits};

/// A sidecar that sends no first report within this time is disconnected.
const FIRST_REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a request for a stream, whatever it is for: the turns and answers of the API server, the tokens and the
/// report have bounds of their own, which together are longer than a sidecar waits.
const OPEN_TIMEOUT: Duration = Duration::from_secs(40);
const _: () = assert!(
    OPEN_TIMEOUT.as_secs() < SYNC_SILENCE.as_secs(),
    "the sidecar hears why it is not served"
);
/// Streams of one pod, each of which may keep an unfinished report of [`MAX_REPORT_BYTES`] however many share a connection, and of
/// all pods. A sidecar has one, and for a moment the one that it had before.
///
/// [`MAX_REPORT_BYTES`]: mcp_auth_protocol::bounds::MAX_REPORT_BYTES
pub const STREAMS: ShareLimits = ShareLimits {
    total: 20_000,
    of_one: 4,
};
/// Of these the ones of pods that no resource selects, of one namespace and of all: any pod can ask for a token of its own, and takes
/// no stream from those that are served.
pub const STREAMS_OF_UNSELECTED: ShareLimits = ShareLimits {
    total: 2_000,
    of_one: 500,
};
/// How long a sidecar waits for a replica that has only just started to know the tokens.
const KNOWING_TIMEOUT: Duration = Duration::from_secs(5);
/// Faster ones wait: each may cause work for every resource of the namespace.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// Heartbeats of all streams come at multiples of this: with thousands of them the process then wakes a few times a second,
/// and not for each.
const HEARTBEAT_GRID: Duration = Duration::from_millis(250);

pub async fn open(State(sync): State<Arc<Sync>>, request: Request) -> Response {
    match within_open_timeout(accept(Arc::clone(&sync), request)).await {
        Ok(response) => response,
        Err(error) => {
            match error {
                // It finds a replica that can serve it by trying.
                SyncError::NotLeading => debug!(%error, "a sidecar was sent on"),
                _ => warn!(reason = error.reason(), %error, "a sidecar was refused"),
            }
            sync.metrics.sync_refused(error.reason());
            error.into_response()
        }
    }
}

async fn within_open_timeout<T>(
    accepted: impl Future<Output = Result<T, SyncError>>,
) -> Result<T, SyncError> {
    match tokio::time::timeout(OPEN_TIMEOUT, accepted).await {
        Ok(accepted) => accepted,
        Err(_) => Err(SyncError::ApiServer(format!(
            "its answers and the turns to ask it took more than {} s",
            OPEN_TIMEOUT.as_secs()
        ))),
    }
}

async fn accept(sync: Arc<Sync>, request: Request) -> Result<Response, SyncError> {
    let (mut head, body) = request.into_parts();
    let pod = sync.authenticator.authenticate(&head).await?;
    let turn = sync.streams.take(pod.uid.clone(), 1, Duration::ZERO).await;
    let turn = turn.ok_or(SyncError::TooManyStreams(STREAMS.of_one))?;
    let mut standing = Standing {
        place: place(&head).cloned(),
        _turn: turn,
        turn_of_unselected: None,
    };
    // Afterwards, since it takes the connection's place, which has become the pod's.
    let upgrade = StreamUpgrade::requested_by(&mut head);
    let mut knows_tokens = sync.knows_tokens.clone();
    let knowing = knows_tokens.wait_for(|knows| *knows);
    if !matches!(tokio::time::timeout(KNOWING_TIMEOUT, knowing).await, Ok(Ok(_))) {
        return Err(SyncError::NotLeading);
    }
    // Before the report, for which a sidecar has time: a pod that is not selected has to have a turn of those meanwhile.
    let seen = stand(&sync, &pod, &mut standing).await?;
    let mut reports = reports(body.into_data_stream());
    let first = tokio::time::timeout(FIRST_REPORT_TIMEOUT, first_report(&mut reports)).await;
    let first = match first {
        Ok(Some(Ok(report))) => report,
        Ok(Some(Err(error))) => return Err(SyncError::NoReport(error.to_string())),
        Ok(None) => return Err(SyncError::NoReport("the body is empty".into())),
        Err(_) => {
            return Err(SyncError::NoReport(format!(
                "none came within {} s",
                FIRST_REPORT_TIMEOUT.as_secs()
            )));
        }
    };
    agree(&first.pod, &pod)?;

    let span = info_span!("sidecar", namespace = pod.namespace, pod = pod.name);
    let Some(upgrade) = upgrade else {
        let lines = lines(sync, (pod, standing, seen), first, reports, span).map(Ok::<Bytes, Infallible>);
        return Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], Body::from_stream(lines)).into_response());
    };
    // HTTP hands the connection over when it has read the request to its end.
    if !matches!(
        tokio::time::timeout(FIRST_REPORT_TIMEOUT, reports.next()).await,
        Ok(None)
    ) {
        return Err(SyncError::NoReport(
            "a request for an upgrade ends with its first report".into(),
        ));
    }
    drop(tokio::spawn(async move {
        if let Some((reader, writer)) = upgrade.halves().await {
            let lines = Box::pin(lines(
                sync,
                (pod, standing, seen),
                first,
                self::reports(pieces(reader)),
                span,
            ));
            // As a task of its own, since what led here would be part of this one until the end.
            drop(tokio::spawn(writer.send_all(lines)));
        }
    }));
    Ok(switching_protocols())
}

/// Heartbeats before it say nothing.
async fn first_report(reports: &mut Reports) -> Option<Result<Report, LineError>> {
    loop {
        match reports.next().await? {
            Ok(Line::Heartbeat) => {}
            Ok(Line::Value(report)) => return Some(Ok(report)),
            Err(error) => return Some(Err(error)),
        }
    }
}

/// What a sidecar is sent, until either side ends the stream, the pod is gone, this replica has lost the leader or the time is
/// up. Its reports are read meanwhile. One task polls this and writes, and while the connection is slow it does not: the
/// next line is then made when the last has gone, from the newest state. A sidecar that takes nothing is disconnected by the
/// kernel, whose bound of what waits unacknowledged holds for a window that is closed too, and out of HTTP one that takes a line too
/// slowly by the writer.
fn lines(
    sync: Arc<Sync>,
    (pod, mut standing, seen): (Pod, Standing, Seen),
    first: Report,
    mut reports: Reports,
    span: Span,
) -> impl Stream<Item = Bytes> + Send {
    stream! {
        let entry = sync.sidecars.enter(&pod.uid, &pod.namespace, &pod.name);
        let _connected = sync.metrics.sidecar_connected();
        let mut disconnect = Disconnect { span, why: "the sidecar went away" };
        disconnect.span.in_scope(|| info!(version = first.version, "sidecar connected"));
        // What could not be passed on is passed on with a later heartbeat.
        let mut not_forwarded = forward_rejections(&sync, &pod, first.refused.clone()).await;
        let reads_deltas = first.capabilities.contains(&Capability::Deltas);
        let mut answers = Answers::of(&first, sync.longest_silence, Instant::now());
        entry.record_report(first);
        let mut next_report_at = Instant::now();
        let mut changes = sync.changes.subscribe(&pod.namespace);
        changes.mark_changed();
        let mut knows_tokens = sync.knows_tokens.clone();
        let mut heartbeat = heartbeat(Instant::now());
        let mut time_is_up = pin!(tokio::time::sleep(lifetime(sync.longest_stream, rand::random())));
        let mut seen = Some(seen);
        let mut sent: Option<Arc<SerialisedSnapshot>> = None;
        disconnect.why = loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() { break "the operator is stopping" }
                    let newest = newest(&sync, &pod, &mut seen).await;
                    if let Ok(Some(newest)) = &newest {
                        standing.look_at(newest);
                    }
                    match newest {
                        Ok(Some(newest)) if is_revision(&newest, sent.as_ref()) => {}
                        Ok(Some(newest)) => {
                            entry.record_sent(&newest.revision);
                            let line = newest.line(sent.as_deref().filter(|_| reads_deltas));
                            sent = Some(newest);
                            yield line;
                        }
                        Ok(None) => break "the pod is gone",
                        Err(error) => {
                            warn!(parent: &disconnect.span, %error, "the pod could not be looked up; the sidecar will connect again");
                            break "the API server could not be asked";
                        }
                    }
                }
                report = reports.next() => {
                    let now = Instant::now();
                    if now < next_report_at {
                        tokio::time::sleep_until(next_report_at).await;
                    }
                    next_report_at = now.max(next_report_at) + MIN_REPORT_INTERVAL;
                    answers.heard(now);
                    match report {
                        Some(Ok(Line::Heartbeat)) => {}
                        Some(Ok(Line::Value(Report { acknowledged: Some(revision), .. }))) => {
                            entry.record_applied(revision);
                        }
                        Some(Ok(Line::Value(report))) => {
                            not_forwarded = forward_rejections(&sync, &pod, report.refused.clone()).await;
                            entry.record_report(report);
                        }
                        // As it ends when the pod does.
                        Some(Err(LineError::Broken(error))) => {
                            debug!(parent: &disconnect.span, %error, "the connection broke");
                            break "the sidecar went away"
                        }
                        Some(Err(error)) => {
                            warn!(parent: &disconnect.span, %error, "a report could not be read");
                            break "a report could not be read"
                        }
                        None => break "the sidecar went away",
                    }
                }
                _ = heartbeat.tick() => {
                    if !entry.is_current() { break "the pod has a newer connection" }
                    let Some(line) = answers.next_line(Instant::now()) else { break "the sidecar does not answer" };
                    entry.tell_if_overdue();
                    not_forwarded = forward_rejections(&sync, &pod, not_forwarded).await;
                    // The authority may have changed, of which there is no notification.
                    let newest = seen.as_ref().map(|seen: &Seen| sync.snapshots.snapshot(&seen.group));
                    if newest.is_some_and(|newest| !is_revision(&newest, sent.as_ref())) {
                        changes.mark_changed();
                    }
                    yield line;
                }
                () = leader_lost(&mut knows_tokens) => break "this replica has lost the one that leads",
                () = &mut time_is_up => break "the stream is renewed",
            }
        };
    }
}

/// Says why a stream has ended, however it did: where the connection ends, what is under way is dropped.
struct Disconnect {
    span: Span,
    why: &'static str,
}

impl Drop for Disconnect {
    fn drop(&mut self) {
        let why = self.why;
        self.span.in_scope(|| info!(why, "sidecar disconnected"));
    }
}

/// Ticks within [`HEARTBEAT`] from `now`, and as often from then on.
fn heartbeat(now: Instant) -> Interval {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mut heartbeat = interval_at(next_heartbeat(*ORIGIN, now), HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    heartbeat
}

fn next_heartbeat(origin: Instant, now: Instant) -> Instant {
    let since = now.saturating_duration_since(origin);
    let steps = since.as_millis() / HEARTBEAT_GRID.as_millis();
    origin + HEARTBEAT_GRID * u32::try_from(steps).unwrap_or(u32::MAX) + HEARTBEAT
}

/// Up to a fifth less by chance (between 0 and 1), so that sidecars that came together, as after a restart of
/// the operator, do not all come again together.
fn lifetime(longest: Duration, chance: f64) -> Duration {
    longest.mul_f64(1.0 - 0.2 * chance.clamp(0.0, 1.0))
}

async fn leader_lost(knows_tokens: &mut watch::Receiver<bool>) {
    // An error means that the operator is stopping.
    let _ = knows_tokens.wait_for(|knows| !knows).await;
}

/// Tells the token sources, be they the leader's, of the tokens that this pod's servers refused, as far as the
/// pod has a right to them. Returns those that could not be passed on, because the pod could not be looked up.
async fn forward_rejections(sync: &Sync, pod: &Pod, refused: Vec<RejectedToken>) -> Vec<RejectedToken> {
    if refused.is_empty() {
        return refused;
    }
    let known = match sync.pods.get(&pod.namespace, &pod.name, &pod.uid).await {
        Ok(Some(known)) => known,
        Ok(None) => return Vec::new(),
        Err(error) => {
            warn!(%error, "a refused token waits: the pod could not be looked up");
            return refused;
        }
    };
    let entitled = sync.resources.entitled(&pod.namespace, known.labels());
    for resource in entitled.unwrap_or_default() {
        // One for each server: more are ignored.
        let of_server = |refused: &&RejectedToken| refused.server == resource.spec.server.name;
        if let Some(refused) = refused.iter().find(of_server) {
            sync.token_refresh_requests.send(TokenRefreshRequest {
                resource: ResourceRef::from(&*resource),
                token: refused.token.clone(),
                why: refused.why.clone(),
            });
        }
    }
    Vec::new()
}

/// What a stream takes of the bounds.
struct Standing {
    place: Option<Arc<Place>>,
    _turn: Share,
    /// Until a resource selects the pod. Where none does any more, the stream stays until its time is up.
    turn_of_unselected: Option<Share>,
}

impl Standing {
    /// Whether a resource selects the pod, which then keeps its place.
    fn look_at(&mut self, newest: &SerialisedSnapshot) -> bool {
        let is_selected = newest.has_servers();
        if is_selected {
            self.turn_of_unselected = None;
            if let Some(place) = &self.place {
                place.entitled();
            }
        }
        is_selected
    }
}

/// Looks the pod up. One that no resource selects gets a turn of those, or none.
async fn stand(sync: &Sync, pod: &Pod, standing: &mut Standing) -> Result<Seen, SyncError> {
    let Some(resources) = sync.resources.in_namespace(&pod.namespace) else {
        return Err(SyncError::NotListed(pod.namespace.clone()));
    };
    let turn_of_unselected = async || {
        let turns = &sync.streams_of_unselected;
        let turn = turns.take(pod.namespace.clone(), 1, Duration::ZERO).await;
        turn.map(Some).ok_or(SyncError::TooManyUnselected)
    };
    // Nothing can select it, and it is in no watch: the API server is not asked for more of these than have a turn.
    if resources.is_empty() {
        standing.turn_of_unselected = turn_of_unselected().await?;
    }
    let mut seen = None;
    let newest = newest(sync, pod, &mut seen).await;
    let newest = newest.map_err(|error| SyncError::ApiServer(error.to_string()))?;
    let (Some(newest), Some(seen)) = (newest, seen) else {
        return Err(SyncError::NoSuchPod(format!("{}/{}", pod.namespace, pod.name)));
    };
    if !standing.look_at(&newest) && standing.turn_of_unselected.is_none() {
        standing.turn_of_unselected = turn_of_unselected().await?;
    }
    Ok(seen)
}

/// The pod as it was looked at last, and the group that it then was of.
struct Seen {
    pod: Arc<WatchedPod>,
    group: Arc<Group>,
}

/// What the pod is entitled to now, and the authority; nothing if the pod is gone.
async fn newest(
    sync: &Sync,
    pod: &Pod,
    seen: &mut Option<Seen>,
) -> kube::Result<Option<Arc<SerialisedSnapshot>>> {
    let Some(known) = sync.pods.get(&pod.namespace, &pod.name, &pod.uid).await? else {
        return Ok(None);
    };
    let before = seen
        .take()
        .filter(|seen| Arc::ptr_eq(&seen.pod, &known) || seen.group.is_of(&pod.namespace, known.labels()));
    let group = match before {
        Some(before) => before.group,
        None => sync.snapshots.group(&pod.namespace, known.labels()),
    };
    let newest = sync.snapshots.snapshot(&group);
    *seen = Some(Seen { pod: known, group });
    Ok(Some(newest))
}

fn is_revision(newest: &SerialisedSnapshot, sent: Option<&Arc<SerialisedSnapshot>>) -> bool {
    sent.is_some_and(|sent| sent.revision == newest.revision)
}

#[cfg(test)]
mod tests;
