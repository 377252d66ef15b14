//! The sync client: keeps one stream to the operator open, takes each snapshot over and reports the state of
//! this sidecar. It never gives up: without the operator the sidecar goes on with what it has.
//!
//! [`connect`] opens a connection, [`lines`] reads and writes in HTTP and out of it, [`delta`] turns a change into the next
//! snapshot.

mod connect;
mod delta;
mod error;
mod lines;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::bounds::{MAX_REFUSAL_BYTES, MAX_SNAPSHOT_BYTES};
use mcp_auth_protocol::sync::{self, Capability, Problem, Report, Snapshot, SnapshotLine};
use mcp_auth_protocol::timeouts::SYNC_SILENCE;
use mcp_auth_resilience::exponential;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::codec::{Decoder, LinesCodec};
use tracing::{debug, info, warn};

use crate::control::clock_offset::ClockOffset;
pub(crate) use connect::Connection;
pub use connect::{Connector, Endpoint, OperatorCa, TcpConnector};
use connect::{StreamConnection, operator_tls_config};
use delta::next_snapshot;
use error::UNKNOWN;
pub use error::{SyncError, UNREACHABLE};
use lines::{IncomingLines, OutgoingLines, ReportLines};

/// How the operator is reached, and as whom.
#[derive(Clone, Debug)]
pub struct SyncClient<D> {
    pub endpoint: Endpoint,
    pub operator_ca: OperatorCa,
    /// The projected ServiceAccount token. The kubelet replaces it, so it is read for each connection.
    pub token_file: PathBuf,
    pub timing: Timing,
    pub connector: D,
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// Longest time without a line, and without an answer to the request.
    pub silence: Duration,
    /// First and longest wait between two attempts.
    pub backoff: (Duration, Duration),
    /// Longest wait where the operator answered and another of its replicas will serve.
    pub other_replica: Duration,
    /// A stream that lived this long was a good one: the next wait is the first again. One that ends sooner,
    /// again and again, must not be opened several times a second.
    pub settled: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: SYNC_SILENCE,
            backoff: (Duration::from_millis(250), Duration::from_secs(30)),
            other_replica: Duration::from_secs(1),
            settled: Duration::from_secs(30),
        }
    }
}

impl Timing {
    /// The wait after a failure that so many others came right before. `chance`, between 0 and 1, takes up to
    /// half of it off, so that a fleet of sidecars does not come back at the same moment.
    fn retry_wait(&self, failures_before: u32, chance: f64) -> Duration {
        let (first, max) = self.backoff;
        exponential(first, failures_before, max).mul_f64(0.5 + 0.5 * chance)
    }
}

/// What outlives a connection.
struct SyncState<'a, A> {
    operator_ca: OperatorCa,
    /// Streams in a row that ended before they were settled.
    failures: u32,
    /// When the first snapshot of the stream came.
    serving_since: Option<Instant>,
    /// The failure last logged, so that each is told once and not with every attempt.
    last_logged: Option<String>,
    /// Whether the operator may take a stream out of HTTP. Replicas of two versions may take turns.
    upgrades: bool,
    reports: &'a watch::Sender<Report>,
    apply: A,
    clock_offset: ClockOffset,
}

/// A stream that the operator has accepted.
struct OpenStream {
    connection: StreamConnection,
    incoming: IncomingLines,
    outgoing: OutgoingLines,
    /// Whoever makes the lines answers each question.
    asked: watch::Sender<()>,
    /// Whether they may be acknowledgements.
    acknowledges: Arc<AtomicBool>,
}

impl<D: Connector> SyncClient<D> {
    /// Follows for ever. `apply` takes a snapshot over, with whatever it has to say put into `reports`; what
    /// stands there goes up whenever it changes, along with the revision, which is entered here.
    pub async fn run(self, reports: &watch::Sender<Report>, apply: impl FnMut(Snapshot)) -> Infallible {
        let mut state = SyncState {
            operator_ca: self.operator_ca.clone(),
            failures: 0,
            serving_since: None,
            last_logged: None,
            upgrades: true,
            reports,
            apply,
            clock_offset: ClockOffset::default(),
        };
        reports.send_modify(|report| report.capabilities = vec![Capability::Deltas, Capability::Answers]);
        loop {
            let Err(error) = self.stream(&mut state).await;
            let lived = state.serving_since.take().map(|since| since.elapsed());
            let was_settled = lived.is_some_and(|lived| lived >= self.timing.settled);
            if was_settled {
                state.failures = 0;
            }
            let mut wait = self.timing.retry_wait(state.failures, rand::random());
            state.failures = state.failures.saturating_add(1);
            if error.is_of_follower() {
                wait = wait.min(self.timing.other_replica);
            }
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let (reason, message) = (error.reason(), error.to_string());
            if was_settled {
                // The operator renews its streams, and its replicas come and go. Only what keeps the sidecar
                // from coming back is a warning.
                info!(
                    reason,
                    error = message,
                    retry_in_ms = milliseconds,
                    "the stream ended; connecting again"
                );
            } else if state.last_logged.as_ref() == Some(&message) {
                debug!(
                    reason,
                    error = message,
                    retry_in_ms = milliseconds,
                    "still without the operator"
                );
            } else {
                warn!(
                    reason,
                    error = message,
                    retry_in_ms = milliseconds,
                    "not connected to the operator; going on with what is known"
                );
                state.last_logged = Some(message);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn stream(&self, state: &mut SyncState<'_, impl FnMut(Snapshot)>) -> Result<Infallible, SyncError> {
        let OpenStream {
            // Dropped when the stream has ended.
            connection: _connection,
            mut incoming,
            outgoing,
            asked,
            acknowledges,
        } = self.open(state).await?;
        let reading = async {
            let mut lines = LinesCodec::new_with_max_length(MAX_SNAPSHOT_BYTES);
            let mut buffer = BytesMut::new();
            // As it was sent: what a delta changes. The ends of its tokens are by the operator's clock.
            let mut last = None;
            loop {
                self.within_silence(incoming.read(&mut buffer)).await??;
                while let Some(line) = lines.decode(&mut buffer)? {
                    if line == sync::QUESTION {
                        asked.send_replace(());
                    } else if !line.is_empty() {
                        let snapshot = match parse(&line)? {
                            SnapshotLine::Whole(snapshot) => {
                                let reads = |capability| snapshot.capabilities.contains(&capability);
                                acknowledges.store(reads(Capability::Acknowledgements), Ordering::Relaxed);
                                state.upgrades |= reads(Capability::Upgrade);
                                snapshot
                            }
                            SnapshotLine::Delta(delta) => next_snapshot(last.take(), delta)?,
                        };
                        last = Some(snapshot.clone());
                        take_over(snapshot, state);
                    }
                }
            }
        };
        tokio::select! {
            ended = reading => ended,
            ended = outgoing.send_all() => ended,
        }
    }

    /// Opens a stream, out of HTTP where the operator has that, and nothing between refuses it.
    async fn open(&self, state: &mut SyncState<'_, impl FnMut(Snapshot)>) -> Result<OpenStream, SyncError> {
        let mut is_upgrade_refused = false;
        loop {
            let acknowledges = Arc::<AtomicBool>::default();
            let (asked, questions) = watch::channel(());
            let mut lines = report_lines(state.reports.subscribe(), questions, acknowledges.clone());
            let first = match state.upgrades && !is_upgrade_refused {
                true => lines.next().await,
                false => None,
            };
            let asks_for_upgrade = first.is_some();
            let (body, lines) = match first {
                Some(first) => (Full::new(first).boxed_unsync(), Some(lines)),
                None => (
                    BodyExt::boxed_unsync(StreamBody::new(lines.map(|line| Ok(Frame::data(line))))),
                    None,
                ),
            };
            let request = self.request(body, asks_for_upgrade).await?;
            let operator_ca = state.operator_ca.get();
            let address = self.endpoint.to_string();
            let mut connection = timeout(
                self.timing.connect,
                StreamConnection::open(&self.connector, &self.endpoint, &operator_ca),
            )
            .await
            .map_err(|_| SyncError::ConnectTimeout {
                address,
                seconds: self.timing.connect.as_secs(),
            })??;
            let response = self
                .within_silence(connection.sender.send_request(request))
                .await??;
            let (incoming, outgoing) = match (response.status(), lines) {
                (StatusCode::SWITCHING_PROTOCOLS, Some(lines)) => {
                    let upgraded = self.within_silence(hyper::upgrade::on(response)).await??;
                    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
                    (
                        IncomingLines::Upgraded(reader),
                        OutgoingLines::Upgraded { writer, lines },
                    )
                }
                // An operator of before: it has read the report, and ends this stream.
                (StatusCode::OK, Some(_)) => {
                    debug!("the operator does not take streams out of HTTP");
                    state.upgrades = false;
                    continue;
                }
                (StatusCode::OK, None) => (
                    IncomingLines::Http(response.into_body()),
                    OutgoingLines::InRequest,
                ),
                _ => {
                    let error = self.read_refusal(response).await;
                    if !asks_for_upgrade || !error.may_be_of_upgrade() {
                        return Err(error);
                    }
                    debug!(%error, "asking once more, to stay in HTTP");
                    is_upgrade_refused = true;
                    continue;
                }
            };
            return Ok(OpenStream {
                connection,
                incoming,
                outgoing,
                asked,
                acknowledges,
            });
        }
    }

    async fn request(
        &self,
        body: UnsyncBoxBody<Bytes, Infallible>,
        asks_for_upgrade: bool,
    ) -> Result<Request<UnsyncBoxBody<Bytes, Infallible>>, SyncError> {
        let bearer = bearer(&self.token_file).await?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(sync::PATH);
        let headers = request.headers_mut();
        headers.insert(HOST, self.endpoint.host_header());
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(sync::CONTENT_TYPE));
        if asks_for_upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(sync::UPGRADE));
        }
        Ok(request)
    }

    async fn within_silence<T>(&self, what: impl Future<Output = T>) -> Result<T, SyncError> {
        let silence = self.timing.silence;
        timeout(silence, what).await.map_err(|_| SyncError::Silent {
            seconds: silence.as_secs(),
        })
    }

    async fn read_refusal(&self, response: Response<Incoming>) -> SyncError {
        let status = response.status();
        let body = self
            .within_silence(Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect())
            .await;
        let problem = body
            .ok()
            .and_then(Result::ok)
            .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok())
            .unwrap_or_else(|| Problem {
                reason: UNKNOWN.into(),
                message: "it does not say why".into(),
                server: None,
            });
        SyncError::Refused { status, problem }
    }
}

/// Who we are to the operator. Read off this thread, which probes wait for: a file may take its time.
pub(crate) async fn bearer(token_file: &Path) -> Result<HeaderValue, SyncError> {
    let path = || token_file.to_owned();
    let token = tokio::fs::read_to_string(token_file).await;
    let token = token.map_err(|error| SyncError::TokenUnreadable {
        path: path(),
        kind: error.kind(),
    })?;
    let token = token.trim();
    let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
        .ok()
        .filter(|_| !token.is_empty())
        .ok_or_else(|| SyncError::TokenInvalid { path: path() })?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

fn take_over(mut snapshot: Snapshot, state: &mut SyncState<'_, impl FnMut(Snapshot)>) {
    state.serving_since.get_or_insert_with(Instant::now);
    if state.last_logged.take().is_some() {
        info!(revision = snapshot.revision, "connected to the operator again");
    }
    if !snapshot.operator_ca.trim().is_empty() {
        match operator_tls_config(&snapshot.operator_ca) {
            Ok(_) => state.operator_ca.replace(&snapshot.operator_ca),
            Err(error) => warn!(reason = error.reason(), %error, "keeping the certificates known so far"),
        }
    }
    state.clock_offset.observe(snapshot.sent_at);
    for server in &mut snapshot.servers {
        state.clock_offset.apply(&mut server.credential);
    }
    let revision = snapshot.revision.clone();
    (state.apply)(snapshot);
    state.reports.send_if_modified(|report| {
        let applied = Some(revision);
        let is_changed = report.applied != applied;
        report.applied = applied;
        is_changed
    });
}

/// A serde error may quote the line, which holds tokens, so only its kind is repeated.
fn parse(line: &str) -> Result<SnapshotLine, SyncError> {
    serde_json::from_str(line).map_err(|error| {
        SyncError::NotASnapshot(match error.classify() {
            serde_json::error::Category::Data => "a field is missing or of another type",
            _ => "no JSON",
        })
    })
}

/// What goes up, as lines: the report as it stands, and then each that differs from the one
/// before; of one that differs by what is applied alone no more than that, once `acknowledges` says that the operator
/// reads it. An empty line answers each of `questions`.
fn report_lines(
    reports: watch::Receiver<Report>,
    questions: watch::Receiver<()>,
    acknowledges: Arc<AtomicBool>,
) -> ReportLines {
    let state = (reports, questions, None::<Report>);
    let lines = stream::unfold(state, move |(mut reports, mut questions, sent)| {
        let acknowledges = acknowledges.clone();
        async move {
            loop {
                let report = reports.borrow_and_update().clone();
                if sent.as_ref() != Some(&report) {
                    let short = sent.filter(|_| acknowledges.load(Ordering::Relaxed));
                    let short = short.and_then(|sent| acknowledgement(&report, sent));
                    let line = short.as_ref().unwrap_or(&report);
                    let mut line =
                        serde_json::to_vec(line).expect("a report is strings and lists of strings");
                    line.push(b'\n');
                    let state = (reports, questions, Some(report));
                    return Some((Bytes::from(line), state));
                }
                tokio::select! {
                    changed = reports.changed() => changed.ok()?,
                    Ok(()) = questions.changed() => {
                        return Some((Bytes::from_static(b"\n"), (reports, questions, sent)));
                    }
                }
            }
        }
    });
    lines.boxed()
}

/// What says the same as `report` after `sent`, where they differ by what is applied alone.
fn acknowledgement(report: &Report, sent: Report) -> Option<Report> {
    let applied = report.applied.clone()?;
    let sent_again = Report {
        applied: Some(applied.clone()),
        ..sent
    };
    (sent_again == *report).then(|| Report {
        pod: report.pod.clone(),
        version: report.version.clone(),
        acknowledged: Some(applied),
        ..Report::default()
    })
}

#[cfg(test)]
pub(crate) use tests::operator as testing;

#[cfg(test)]
mod tests;
