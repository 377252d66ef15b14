//! What was measured. document.py makes the tables of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::sizes::Sizes;

#[derive(Debug, Serialize)]
pub struct Results {
    pub sizes: Sizes,
    /// Of each replica, before there was a resource.
    pub empty_memory: Vec<f64>,
    pub steps: Vec<Step>,
    pub renewals: Renewals,
    pub restart: Restart,
    pub large: Large,
    pub silent: Silent,
}

/// At rest with so many sidecars.
#[derive(Debug, Serialize)]
pub struct Step {
    pub sidecars: usize,
    pub resources: usize,
    /// MB of the leader and of the follower, now and at most.
    pub memory: Vec<f64>,
    pub peak_memory: Vec<f64>,
    /// Cores of each.
    pub processor: Vec<f64>,
    pub connections_to_api_server: Vec<usize>,
    pub api_writes: usize,
    /// Until all that are new had their snapshot.
    pub connect_seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Renewals {
    /// From the token endpoint's answer to the last sidecar, of each.
    pub seconds: Vec<f64>,
    pub api_writes: usize,
    /// By what they did to which kind of object.
    pub api_writes_by_kind: BTreeMap<String, usize>,
}

#[derive(Debug, Serialize)]
pub struct Restart {
    /// From the first stream that ended until all sidecars had one again.
    pub seconds: f64,
    pub token_reviews: usize,
    /// The greatest number of TokenReviews at once meanwhile, and of connections to the API server.
    pub token_reviews_at_once: usize,
    pub connections_to_api_server: usize,
    pub memory_of_the_other: f64,
}

/// The namespace with many pods and resources.
#[derive(Debug, Serialize)]
pub struct Large {
    pub seconds: Vec<f64>,
    /// Processor milliseconds of both replicas for each renewal, where that can be told.
    pub processor_milliseconds: Option<f64>,
    pub bytes_each: usize,
    pub memory: Vec<f64>,
}

/// Connections that say nothing, and tokens that are none, beside all those sidecars.
#[derive(Debug, Serialize)]
pub struct Silent {
    pub connections: usize,
    pub junk: Junk,
    pub token_reviews: usize,
    /// From the first connection of a new sidecar to its snapshot.
    pub new_sidecar_seconds: f64,
    pub renewal_seconds: f64,
    pub memory: Vec<f64>,
}

/// Tokens that are none, by what they were answered.
#[derive(Debug, Serialize)]
pub struct Junk {
    pub sent: usize,
    /// From the first to the last that was sent.
    pub sending_seconds: f64,
    /// 401.
    pub refused: usize,
    /// 503: too many wait whose key is not known to be the cluster's.
    pub put_off: usize,
    /// The connection was refused or closed.
    pub unanswered: usize,
    /// From the first that was sent to the last answer.
    pub answered_seconds: f64,
}
