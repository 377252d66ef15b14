//! Replicas against an API server in memory that keeps one Lease, with a clock that stands still while
//! anything is left to do.

mod deleted_lease;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use parking_lot::Mutex;
use serde_json::json;

use super::*;

const FOLDER: &str = "/apis/coordination.k8s.io/v1/namespaces/mcp-auth-system/leases";
const SECOND: Duration = Duration::from_secs(1);

/// The Lease of the cluster, with a resource version for each write.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    version: u64,
    lease: Option<Lease>,
}

/// How one replica's way to the API server is.
#[derive(Clone, Copy, Default)]
enum Path {
    #[default]
    Open,
    Silent,
    Failing,
}

struct Replica {
    leads: watch::Receiver<bool>,
    leader: watch::Receiver<Leader>,
    followers: watch::Sender<usize>,
    knows_tokens: watch::Sender<bool>,
    path: watch::Sender<Path>,
}

impl Replica {
    async fn until(&mut self, leads: bool) {
        let waits = self.leads.wait_for(|now| *now == leads);
        tokio::time::timeout(60 * SECOND, waits)
            .await
            .unwrap_or_else(|_| panic!("leads does not become {leads}"))
            .unwrap();
    }

    fn leads(&self) -> bool {
        *self.leads.borrow()
    }
}

impl Cluster {
    fn replica(&self, identity: &str) -> Replica {
        self.replica_that(identity, false)
    }

    /// Which made the certificates of all replicas, or did not.
    fn replica_that(&self, identity: &str, is_first: bool) -> Replica {
        let (path, current) = watch::channel(Path::Open);
        let router = Router::new()
            .route(FOLDER, post(create))
            .route(&format!("{FOLDER}/operator"), get(read).put(replace))
            .with_state(self.clone())
            .layer(middleware::from_fn_with_state(current, on_the_way));
        let (followers, followers_now) = watch::channel(0);
        let (knows_tokens, knows_tokens_now) = watch::channel(true);
        let candidate = Candidate {
            client: Client::new(router, "default"),
            namespace: "mcp-auth-system".into(),
            lease: "operator".into(),
            identity: identity.into(),
            address: Some(address_of(identity)),
            followers: followers_now,
            knows_tokens: knows_tokens_now,
            is_first,
            timing: Timing::default(),
        };
        let Participation { leads, leader, .. } = candidate.take_part();
        Replica {
            leads,
            leader,
            followers,
            knows_tokens,
            path,
        }
    }

    fn store(&self, mut lease: Lease) -> Lease {
        let mut stored = self.0.lock();
        stored.version += 1;
        lease.metadata.resource_version = Some(stored.version.to_string());
        stored.lease = Some(lease.clone());
        lease
    }

    fn delete(&self) {
        self.0.lock().lease = None;
    }

    fn spec(&self) -> Option<LeaseSpec> {
        self.0.lock().lease.as_ref().and_then(|lease| lease.spec.clone())
    }

    fn holder(&self) -> Option<String> {
        self.spec().and_then(|spec| spec.holder_identity)
    }

    /// A renewal by a replica of another machine, whose clock says `renewed`.
    fn renewed_by(&self, holder: &str, renewed: Timestamp, duration_seconds: i32) {
        self.store(Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(duration_seconds),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        });
    }
}

/// Where a replica is followed, in these tests.
fn address_of(identity: &str) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, identity.len() as u8], 8443))
}

async fn on_the_way(State(path): State<watch::Receiver<Path>>, request: Request, next: Next) -> Response {
    let now = *path.borrow();
    match now {
        Path::Open => next.run(request).await,
        Path::Silent => std::future::pending().await,
        Path::Failing => status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    }
}

async fn read(State(cluster): State<Cluster>) -> Response {
    match &cluster.0.lock().lease {
        Some(lease) => Json(lease).into_response(),
        None => status(StatusCode::NOT_FOUND, "NotFound"),
    }
}

async fn create(State(cluster): State<Cluster>, Json(lease): Json<Lease>) -> Response {
    if cluster.0.lock().lease.is_some() {
        return status(StatusCode::CONFLICT, "AlreadyExists");
    }
    Json(cluster.store(lease)).into_response()
}

async fn replace(State(cluster): State<Cluster>, Json(lease): Json<Lease>) -> Response {
    let current = cluster.0.lock().lease.clone();
    match current {
        None => status(StatusCode::NOT_FOUND, "NotFound"),
        Some(current) if current.metadata.resource_version != lease.metadata.resource_version => {
            status(StatusCode::CONFLICT, "Conflict")
        }
        Some(_) => Json(cluster.store(lease)).into_response(),
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code.as_u16(),
    });
    (code, Json(body)).into_response()
}

#[tokio::test(start_paused = true)]
async fn the_next_replica_leads_within_two_seconds_of_a_graceful_end() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    let mut second = cluster.replica("second");
    tokio::time::sleep(60 * SECOND).await;
    assert!(first.leads() && !second.leads());

    let ended = Instant::now();
    drop(first);
    second.until(true).await;
    assert!(ended.elapsed() <= 2 * SECOND, "{:?}", ended.elapsed());
    let spec = cluster.spec().unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("second"));
    assert_eq!(spec.lease_transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_another_begins() {
    for fault in [Path::Silent, Path::Failing] {
        let cluster = Cluster::default();
        let mut first = cluster.replica("first");
        first.until(true).await;
        let mut second = cluster.replica("second");
        tokio::time::sleep(20 * SECOND).await;

        first.path.send_replace(fault);
        let cut = Instant::now();
        first.until(false).await;
        assert!(
            cut.elapsed() <= Timing::default().renew_deadline,
            "{:?}",
            cut.elapsed()
        );
        assert!(!second.leads());
        second.until(true).await;
        let limit = Timing::default().lease_duration + 2 * SECOND;
        assert!(cut.elapsed() <= limit, "{:?}", cut.elapsed());

        // It comes back as a follower.
        first.path.send_replace(Path::Open);
        tokio::time::sleep(60 * SECOND).await;
        assert!(second.leads() && !first.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_moment_without_answers_does_not_end_the_lead() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    tokio::time::sleep(20 * SECOND).await;
    let mut seen = first.leads.clone();
    seen.mark_unchanged();
    for _ in 0..5 {
        first.path.send_replace(Path::Silent);
        tokio::time::sleep(5 * SECOND).await;
        first.path.send_replace(Path::Open);
        tokio::time::sleep(5 * SECOND).await;
    }
    assert!(first.leads() && !seen.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_is_wrong_is_deposed_only_when_it_falls_silent() {
    let hour = Duration::from_secs(3600);
    for skew in [-1, 1] {
        let cluster = Cluster::default();
        let now = || match skew {
            -1 => Timestamp::now() - hour,
            _ => Timestamp::now() + hour,
        };
        cluster.renewed_by("elsewhere", now(), 15);
        let mut replica = cluster.replica("here");
        for _ in 0..30 {
            tokio::time::sleep(3 * SECOND).await;
            cluster.renewed_by("elsewhere", now(), 15);
            assert!(!replica.leads(), "skew of {skew} h");
        }
        let silent = Instant::now();
        replica.until(true).await;
        assert!(silent.elapsed() >= 15 * SECOND, "{:?}", silent.elapsed());
        assert!(silent.elapsed() <= 17 * SECOND, "{:?}", silent.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_when_the_lease_is_somebody_else_s() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    cluster.renewed_by("somebody", Timestamp::now(), 15);
    first.until(false).await;
    // Whoever it was never comes back.
    first.until(true).await;
    assert_eq!(cluster.holder().as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_year_stops_nobody_for_a_year() {
    let cluster = Cluster::default();
    cluster.renewed_by("somebody", Timestamp::now(), 365 * 24 * 3600);
    let mut replica = cluster.replica("first");
    let began = Instant::now();
    tokio::time::timeout(120 * SECOND, replica.leads.wait_for(|leads| *leads))
        .await
        .expect("it leads within two minutes")
        .unwrap();
    assert!(began.elapsed() >= 60 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_replicas_that_start_together_one_leads() {
    let cluster = Cluster::default();
    let replicas: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| cluster.replica(name)).into();
    tokio::time::sleep(Timing::default().lease_duration + 5 * SECOND).await;
    let leading = replicas.iter().filter(|replica| replica.leads()).count();
    assert_eq!(leading, 1);
    tokio::time::sleep(60 * SECOND).await;
    let leading = replicas.iter().filter(|replica| replica.leads()).count();
    assert_eq!(leading, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_anew_under_its_own_name_leads_at_once() {
    let cluster = Cluster::default();
    cluster.renewed_by("first", Timestamp::now(), 15);
    let began = Instant::now();
    cluster.replica("first").until(true).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_follower_learns_where_the_leader_is_and_that_the_api_server_is_away() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    assert_eq!(*first.leader.borrow(), Leader::ThisReplica);
    let mut second = cluster.replica("second one");
    let leader = |is_confirmed| Leader::Other {
        address: Some(address_of("first")),
        is_confirmed,
    };
    second
        .leader
        .wait_for(|known| *known == leader(true))
        .await
        .unwrap();
    second.path.send_replace(Path::Failing);
    second
        .leader
        .wait_for(|known| *known == leader(false))
        .await
        .unwrap();
    second.path.send_replace(Path::Open);
    drop(first);
    second.until(true).await;
    assert_eq!(*second.leader.borrow(), Leader::ThisReplica);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_crashed_and_starts_anew_lets_a_replica_lead_that_knows_its_tokens() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    let mut second = cluster.replica("second");
    first.followers.send_replace(1);
    tokio::time::sleep(10 * SECOND).await;
    // The process ends without a word, and the kubelet starts another one in the same pod.
    first.path.send_replace(Path::Silent);
    let crashed = Instant::now();
    let again = cluster.replica("first");
    again.knows_tokens.send_replace(false);
    second.until(true).await;
    let limit = Timing::default().lease_duration + 2 * SECOND;
    assert!(crashed.elapsed() <= limit, "{:?}", crashed.elapsed());
    tokio::time::sleep(60 * SECOND).await;
    assert!(second.leads() && !again.leads());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_knows_no_tokens_leads_in_the_end_where_no_other_does() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    first.followers.send_replace(1);
    tokio::time::sleep(10 * SECOND).await;
    drop(first);
    tokio::time::sleep(SECOND).await;
    let began = Instant::now();
    let mut second = cluster.replica("second");
    second.knows_tokens.send_replace(false);
    second.until(true).await;
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
}
