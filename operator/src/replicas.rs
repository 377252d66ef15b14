//! The replicas among themselves: [`publisher`] gives followers what the leader has published, [`follower`] takes it
//! over and tells the leader of the sidecars that are connected here and of the pods that were refused here, and [`exchange`] gets users' tokens for
//! them. [`messages`] is what travels.

mod exchange;
mod follower;
mod messages;
mod publisher;

use axum::Router;
use axum::routing::post;
use mcp_auth_credentials::{Credentials, TokenRefreshRequests};
use tokio::sync::watch;

use crate::leader_client::{EXCHANGE_PATH, FOLLOW_PATH};
use crate::refused_pods::RefusedPods;
use crate::resources::Resources;
use crate::sidecars::Sidecars;
use crate::sync::{Authenticator, OperatorAccount};

pub use follower::Follower;

/// What the leader serves followers with.
#[derive(Clone)]
pub struct Replicas {
    pub authenticator: Authenticator,
    /// Who may follow.
    pub account: OperatorAccount,
    pub leads: watch::Receiver<bool>,
    /// How many follow now and know what this replica knows.
    pub followers: FollowerCount,
    pub resources: Resources,
    pub credentials: Credentials,
    pub sidecars: Sidecars,
    pub token_refresh_requests: TokenRefreshRequests,
    pub refused: RefusedPods,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct FollowerCount(std::sync::Arc<watch::Sender<usize>>);

/// Counts a follower until it is dropped.
pub struct CountedFollower(FollowerCount);

impl FollowerCount {
    pub fn new() -> (Self, watch::Receiver<usize>) {
        let (count, receiver) = watch::channel(0);
        (Self(std::sync::Arc::new(count)), receiver)
    }

    fn enter(&self) -> CountedFollower {
        self.0.send_modify(|count| *count += 1);
        CountedFollower(self.clone())
    }
}

impl Drop for CountedFollower {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

pub fn router(replicas: Replicas) -> Router {
    Router::new()
        .route(FOLLOW_PATH, post(publisher::open))
        .route(EXCHANGE_PATH, post(exchange::exchange))
        .with_state(replicas)
}
