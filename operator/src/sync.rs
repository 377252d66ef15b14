//! Streams routes and tokens to the sidecars: [`authenticate`] tells whose pod calls, [`stream`] keeps it up
//! to date with what [`crate::entitlement`] entitles that pod to, and nothing else, by [`snapshots`], and [`exchange`] gets
//! users' own tokens.

mod answers;
mod authenticate;
mod debounced_changes;
mod error;
mod exchange;
mod issuer_keys;
mod lines;
mod snapshots;
mod stream;
mod token_claims;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use mcp_auth_credentials::{Credentials, TokenRefreshRequests};
use mcp_auth_protocol::sync::{EXCHANGE_PATH, PATH};
use tokio::sync::watch;

use crate::leader_client::LeaderClient;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::resources::Resources;
use crate::shares::Shares;
use crate::sidecars::Sidecars;

pub use authenticate::{Authenticator, OperatorAccount};
pub use debounced_changes::DebouncedChanges;
pub use error::SyncError;
pub use exchange::exchanged;
pub use lines::{LineError, lines};
pub use snapshots::{LeftOut, ServerLengths, Snapshots};
pub use stream::{STREAMS, STREAMS_OF_UNSELECTED};

/// What the endpoint works with.
pub struct Sync {
    pub authenticator: Authenticator,
    /// Whether this replica exchanges users' tokens itself.
    pub leads: watch::Receiver<bool>,
    /// Whether it leads, or knows the tokens of the one that does.
    pub knows_tokens: watch::Receiver<bool>,
    /// Where it does not lead.
    pub leader: LeaderClient,
    pub snapshots: Snapshots,
    pub resources: Resources,
    pub credentials: Credentials,
    pub token_refresh_requests: TokenRefreshRequests,
    pub changes: DebouncedChanges,
    pub pods: Pods,
    pub sidecars: Sidecars,
    /// Of streams, by the uid of the pod.
    pub streams: Shares<String>,
    /// Of those of pods that no resource selects, by namespace.
    pub streams_of_unselected: Shares<String>,
    /// Of users' tokens that are asked for, by the uid of the pod.
    pub exchanges_of_pods: Shares<String>,
    /// Of the same, by the pod's namespace.
    pub exchanges: Shares<String>,
    pub metrics: Metrics,
    /// A stream ends after this time, so that a pod's identity is looked at anew, with a newer token.
    pub longest_stream: Duration,
    /// A sidecar of which nothing was heard for this long is asked whether it is there.
    pub longest_silence: Duration,
}

pub fn router(sync: Sync) -> Router {
    Router::new()
        .route(PATH, post(stream::open))
        .route(EXCHANGE_PATH, post(exchange::exchange))
        // Shared by all streams: there are thousands.
        .with_state(Arc::new(sync))
}
