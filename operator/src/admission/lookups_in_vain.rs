//! Lookups in vain: how often the API server was asked, in the last minute, about reviews that it hardly ever sends itself. From a bound
//! on it is not asked again for the rest of that minute, so that whoever makes reviews up does not use up the operator's requests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// In a minute, of one address, in one scope and of one kind.
const MAX_LOOKUPS_IN_VAIN: usize = 30;
const WINDOW: Duration = Duration::from_secs(60);
/// Counts that are kept at most. Of one address there are two for each namespace with resources, and two more.
const MAX_COUNTS: usize = 10_000;

/// Among which other reviews of its address one counts. Who writes such pods in one namespace is no reason to look up less for another;
/// but anybody can make up namespaces without end, and so all that have no resource count as one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum LookupScope {
    /// A namespace with resources.
    Namespace(String),
    WithoutResources,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum LookupInVain {
    /// The API server has said that there is no such owner.
    MadeUpOwner,
    /// The pod names no owner that can be looked up.
    NoOwner,
}

type Key = (LookupInVain, IpAddr, LookupScope);

/// Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(super) struct LookupsInVain {
    /// How many, and since when.
    counts: Arc<Mutex<HashMap<Key, (Instant, usize)>>>,
}

impl LookupsInVain {
    /// Whether there may be one more.
    pub fn is_within_bound(&self, what: LookupInVain, address: IpAddr, scope: &LookupScope) -> bool {
        let counts = self.counts.lock();
        let count = counts.get(&(what, address, scope.clone()));
        count.is_none_or(|(since, count)| since.elapsed() >= WINDOW || *count < MAX_LOOKUPS_IN_VAIN)
    }

    /// Counts one more.
    pub fn record(&self, what: LookupInVain, address: IpAddr, scope: &LookupScope) {
        let key = (what, address, scope.clone());
        let mut counts = self.counts.lock();
        if !counts.contains_key(&key) && counts.len() >= MAX_COUNTS {
            counts.retain(|_, (since, _)| since.elapsed() < WINDOW);
            // All of this minute: one gives way.
            let oldest = counts.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest
                .map(|(key, _)| key.clone())
                .filter(|_| counts.len() >= MAX_COUNTS)
            {
                counts.remove(&oldest);
            }
        }
        let (since, count) = counts.entry(key).or_insert((Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn namespace(number: usize) -> LookupScope {
        LookupScope::Namespace(format!("team-{number}"))
    }

    #[tokio::test(start_paused = true)]
    async fn each_namespace_with_resources_and_each_kind_has_its_own_thirty_of_a_minute() {
        let lookups = LookupsInVain::default();
        for _ in 0..MAX_LOOKUPS_IN_VAIN {
            assert!(lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &namespace(1)));
            lookups.record(LookupInVain::NoOwner, ADDRESS, &namespace(1));
        }
        assert!(!lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &namespace(1)));
        assert!(lookups.is_within_bound(LookupInVain::MadeUpOwner, ADDRESS, &namespace(1)));
        assert!(lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &namespace(2)));
        assert!(lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &LookupScope::WithoutResources));
        assert!(lookups.is_within_bound(LookupInVain::NoOwner, [10, 0, 0, 2].into(), &namespace(1)));
        tokio::time::advance(WINDOW).await;
        assert!(lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &namespace(1)));
        lookups.record(LookupInVain::NoOwner, ADDRESS, &namespace(1));
        assert!(lookups.is_within_bound(LookupInVain::NoOwner, ADDRESS, &namespace(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_counts_are_kept_than_there_is_room_for() {
        let lookups = LookupsInVain::default();
        for number in 0..MAX_COUNTS + 10 {
            lookups.record(LookupInVain::MadeUpOwner, ADDRESS, &namespace(number));
            assert!(lookups.counts.lock().len() <= MAX_COUNTS);
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        let is_kept = |number| {
            let key = (LookupInVain::MadeUpOwner, ADDRESS, namespace(number));
            lookups.counts.lock().contains_key(&key)
        };
        assert!(
            !is_kept(0) && is_kept(10) && is_kept(MAX_COUNTS + 9),
            "the oldest give way"
        );
        tokio::time::advance(WINDOW).await;
        lookups.record(LookupInVain::MadeUpOwner, ADDRESS, &namespace(MAX_COUNTS + 10));
        assert_eq!(
            lookups.counts.lock().len(),
            1,
            "those of the minute before are gone"
        );
    }
}
