//! Looks at the authorization server that no token request does: by a watch where only users have tokens, and by what a
//! client discovers meanwhile.

use std::sync::Arc;

use mcp_auth_oauth::{self as oauth, Clock, DiscoveryState, DiscoveryWatch, Policy};

use super::OnChange;
use crate::token_sources::AbortOnDrop;

/// Looks the authorization server up, since no token request does.
pub(super) struct LookUp {
    watch: DiscoveryWatch,
    _changes: AbortOnDrop,
}

impl LookUp {
    pub(super) fn start(client: &oauth::Client, policy: Policy, clock: &Clock, on_change: &OnChange) -> Self {
        let watch = DiscoveryWatch::spawn(client.clone(), policy, clock.clone());
        let (mut states, announce) = (watch.subscribe(), Arc::clone(on_change));
        let changes = AbortOnDrop::spawn(async move {
            while states.changed().await.is_ok() {
                announce();
            }
        });
        Self {
            watch,
            _changes: changes,
        }
    }

    pub(super) fn state(&self) -> DiscoveryState {
        self.watch.subscribe().borrow().clone()
    }
}

/// Calls `on_change` for each server that this client discovers.
pub(super) fn discoveries(client: &oauth::Client, on_change: &OnChange) -> AbortOnDrop {
    let (client, on_change) = (client.clone(), Arc::clone(on_change));
    AbortOnDrop::spawn(async move {
        let mut known = None;
        loop {
            known = Some(client.next_discovered(known.as_deref()).await);
            on_change();
        }
    })
}
