//! What one replica has seen of the Lease, and what it may do by that: pure, with the time given.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// Longest time that a replica waits because of what the Lease says of its duration: somebody who writes a
/// greater one by hand does not stop all replicas for longer.
const MAX_LEASE_DURATION: Duration = Duration::from_secs(60);

/// The Lease as it was last seen, and since when it looks like that by this replica's own clock.
#[derive(Debug, Default)]
pub struct ObservedLease(Option<(LeaseSpec, Instant)>);

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Write the Lease with this replica as holder; it `acquires` what was another's before, or nobody's.
    Write { acquires: bool },
    /// It is another's, who may live.
    Wait { holder: String },
}

impl ObservedLease {
    /// Takes note of what was found. A Lease that is gone says nothing of its holder, who makes it anew.
    pub fn observe(&mut self, found: Option<&Lease>, now: Instant) {
        let Some(found) = found else { return };
        let spec = found.spec.clone().unwrap_or_default();
        if self.0.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.0 = Some((spec, now));
        }
    }

    /// What may be done with the Lease after it was observed.
    pub fn action(&self, identity: &str, lease_duration: Duration, now: Instant) -> Action {
        let Some((spec, since)) = &self.0 else {
            return Action::Write { acquires: true };
        };
        match holder(spec) {
            None => Action::Write { acquires: true },
            Some(holder) if holder == identity => Action::Write { acquires: false },
            Some(holder) => {
                let stated = spec
                    .lease_duration_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .map_or(lease_duration, Duration::from_secs)
                    .min(MAX_LEASE_DURATION);
                match now < *since + stated {
                    true => Action::Wait {
                        holder: holder.to_owned(),
                    },
                    false => Action::Write { acquires: true },
                }
            }
        }
    }

    /// The spec to write. `written_at` is for people.
    pub fn spec_held_by(
        &self,
        identity: &str,
        lease_duration: Duration,
        acquires: bool,
        written_at: Timestamp,
    ) -> LeaseSpec {
        let before = self.0.as_ref().map(|(spec, _)| spec.clone()).unwrap_or_default();
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(i32::try_from(lease_duration.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(written_at)),
            acquire_time: match acquires {
                true => Some(MicroTime(written_at)),
                false => before.acquire_time.clone(),
            },
            lease_transitions: Some(transitions.saturating_add(i32::from(acquires))),
            ..before
        }
    }
}

/// The spec without its holder, if that is this replica.
pub fn released(spec: &LeaseSpec, identity: &str) -> Option<LeaseSpec> {
    (holder(spec) == Some(identity)).then(|| LeaseSpec {
        holder_identity: Some(String::new()),
        ..spec.clone()
    })
}

/// Empty and absent mean the same.
fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}
