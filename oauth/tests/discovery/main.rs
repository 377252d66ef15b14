//! The search for an authorization server over real sockets: where it looks and in which order, whom it
//! believes, where it does not go, and how long what it found is kept.

// All of this is a test; clippy.toml's allowance only sees functions that are marked as one.
#![allow(clippy::unwrap_used)]

mod allowed;
mod broken_set_ups;
mod client;
mod issuer;
mod keeping;
mod limits;
mod resource;
mod server;
mod successor;
mod tls;
mod watch;

use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_oauth::{
    ClientAuthentication, Clock, Discovery, Error, Limits, Registration, ServerLocation, ServerMetadata,
};

pub fn registration(server: ServerLocation) -> Registration {
    Registration {
        server,
        allow_insecure_http: true,
        ..Registration::new("", "client", ClientAuthentication::SecretBasic("s3cret".into()))
    }
}

pub fn resource_at(url: String) -> ServerLocation {
    ServerLocation::ProtectedResource {
        url,
        ca_bundle: None,
        known_issuer: None,
    }
}

pub fn discovery(registration: &Registration) -> Discovery {
    Discovery::new(registration, Clock::system()).unwrap().unwrap()
}

/// One search with the usual rules, but that http is allowed.
pub async fn search(server: ServerLocation) -> Result<ServerMetadata, Error> {
    let metadata = discovery(&registration(server)).server().await;
    metadata.map(|server| (*server).clone())
}

/// One search with other bounds.
pub async fn search_within(server: ServerLocation, limits: Limits) -> Result<ServerMetadata, Error> {
    let discovery = Discovery::with_limits(&registration(server), limits, Clock::system());
    let metadata = discovery.unwrap().unwrap().server().await;
    metadata.map(|server| (*server).clone())
}

pub fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

/// Moves the clock. It stands still for no longer than that: under a clock that is paused, waiting for a
/// socket counts as having nothing to do, and timeouts pass at once.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
