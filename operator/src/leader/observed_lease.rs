//! What one replica has seen of the Lease, and what it may do by that: pure, with the time given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

/// Longest time that a replica waits because of what the Lease says of its duration: somebody who writes a
/// greater one by hand does not stop all replicas for longer. The shortest is its own, which a leader relies on.
const MAX_LEASE_DURATION: Duration = Duration::from_secs(60);

/// How much longer a replica waits that does not know the leader's tokens where another one does.
const FOLLOWERS_FIRST: Duration = Duration::from_secs(3);
/// Where the replica that holds the Lease is followed: `IP:PORT`.
const ADDRESS: &str = "mcpauth.dev/leader-address";
/// How many replicas know what it knows.
const FOLLOWERS: &str = "mcpauth.dev/followers";

/// The Lease as it was last seen, and since when it looks like that by this replica's own clock.
#[derive(Debug, Default)]
pub struct ObservedLease {
    spec: Option<(LeaseSpec, Instant)>,
    /// Since when there is none.
    absent_since: Option<Instant>,
    annotations: LeaseAnnotations,
}

/// What a leader says of itself beside the spec.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseAnnotations {
    pub address: Option<SocketAddr>,
    pub followers: usize,
}

/// The replica that decides.
#[derive(Clone, Copy, Debug)]
pub struct Contender<'a> {
    pub identity: &'a str,
    pub lease_duration: Duration,
    /// This very process has held the Lease, and not an earlier one of the same name.
    pub has_led: bool,
    /// It leads now.
    pub leads: bool,
    /// It knows the tokens of the leader before it.
    pub knows_tokens: bool,
    /// This very process created the certificates' Secret, since there was none. So it is at the first start of an installation; but
    /// also where somebody has deleted the Secret while another replica leads. Where the Lease is deleted together with it, both
    /// lead until that one's next renewal finds this one's Lease.
    pub is_first: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Write the Lease with this replica as holder; it `acquires` what was another's before, or nobody's.
    Write { acquires: bool },
    /// It is another's, who may live, or another is to take it first.
    Wait { holder: String },
}

impl ObservedLease {
    /// Takes note of what was found. A Lease that is gone says nothing of its holder, who makes it anew.
    pub fn observe(&mut self, found: Option<&Lease>, now: Instant) {
        let Some(found) = found else {
            self.absent_since.get_or_insert(now);
            return;
        };
        self.absent_since = None;
        self.annotations = LeaseAnnotations::read(found.metadata.annotations.as_ref());
        let spec = found.spec.clone().unwrap_or_default();
        if self.spec.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.spec = Some((spec, now));
        }
    }

    /// Where the replica that holds the Lease is followed.
    pub fn address(&self) -> Option<SocketAddr> {
        self.annotations.address
    }

    /// What may be done with the Lease after it was observed. A replica that knows no tokens lets those go
    /// first that do, be it after a crash of its own. Where there is none, somebody may have deleted it: a replica that leads
    /// makes it anew at its next renewal, and each other one waits for as long as such a one could lead on without; not the one that
    /// created the certificates' Secret, which is the first of an installation unless somebody has deleted the Secret as well.
    pub fn action(&self, contender: Contender<'_>, now: Instant) -> Action {
        let absent_until = self.absent_since.map(|since| since + contender.lease_duration);
        let may_be_led = absent_until.is_some_and(|until| now < until);
        let Some((spec, since)) = &self.spec else {
            return match may_be_led && !contender.is_first {
                true => Action::Wait {
                    holder: String::new(),
                },
                false => Action::Write { acquires: true },
            };
        };
        let is_followed = self.annotations.followers > 0;
        let holder = holder(spec);
        // One that led once may have a successor whose Lease it never saw.
        let was_seen = contender.leads || self.absent_since.is_none();
        if holder == Some(contender.identity) && was_seen && (contender.has_led || !is_followed) {
            return Action::Write { acquires: false };
        }
        let stated = || {
            spec.lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(contender.lease_duration, Duration::from_secs)
                .min(MAX_LEASE_DURATION)
                .max(contender.lease_duration)
        };
        let wait = holder.map_or(Duration::ZERO, |_| stated());
        let precedence = match is_followed && !contender.knows_tokens {
            true => FOLLOWERS_FIRST,
            false => Duration::ZERO,
        };
        match may_be_led || now < *since + wait + precedence {
            true => Action::Wait {
                holder: holder.unwrap_or_default().to_owned(),
            },
            false => Action::Write { acquires: true },
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
        let before = self
            .spec
            .as_ref()
            .map(|(spec, _)| spec.clone())
            .unwrap_or_default();
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

impl LeaseAnnotations {
    fn read(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let value = |key| annotations.and_then(|annotations| annotations.get(key));
        Self {
            address: value(ADDRESS).and_then(|address| address.parse().ok()),
            followers: value(FOLLOWERS).and_then(|count| count.parse().ok()).unwrap_or(0),
        }
    }

    /// Puts them among the annotations that are there.
    pub fn write(self, annotations: &mut Option<BTreeMap<String, String>>) {
        let annotations = annotations.get_or_insert_default();
        match self.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        annotations.insert(FOLLOWERS.to_owned(), self.followers.to_string());
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
