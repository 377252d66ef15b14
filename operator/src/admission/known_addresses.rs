//! Known addresses: those that sent a review of a pod whose workload exists. An API server does, and so does whoever has read the UID
//! of a workload; a stranger does not. What is kept for them strangers cannot take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an address is known after such a review: an API server sends one when a pod of LiteLLM is made.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);
/// Addresses that are kept at most; the API servers of a cluster are a handful.
const MAX_KNOWN: usize = 256;

/// Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(super) struct KnownAddresses {
    /// When the last such review came.
    seen: Arc<Mutex<HashMap<IpAddr, Instant>>>,
}

impl KnownAddresses {
    pub fn record(&self, address: IpAddr) {
        let mut seen = self.seen.lock();
        if !seen.contains_key(&address) && seen.len() >= MAX_KNOWN {
            let oldest = seen
                .iter()
                .min_by_key(|(_, seen)| **seen)
                .map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                seen.remove(&oldest);
            }
        }
        seen.insert(address, Instant::now());
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let seen = self.seen.lock();
        seen.get(&address).is_some_and(|seen| seen.elapsed() < KNOWN_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        let [.., high, low] = number.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_known_for_an_hour_after_its_last_review() {
        let known = KnownAddresses::default();
        assert!(!known.contains(address(1)));
        known.record(address(1));
        tokio::time::advance(KNOWN_FOR - Duration::from_secs(1)).await;
        assert!(known.contains(address(1)));
        known.record(address(1));
        tokio::time::advance(KNOWN_FOR - Duration::from_secs(1)).await;
        assert!(known.contains(address(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!known.contains(address(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_addresses_the_one_that_sent_nothing_for_longest_is_forgotten() {
        let known = KnownAddresses::default();
        for number in 0..MAX_KNOWN {
            known.record(address(number));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        known.record(address(0));
        known.record(address(MAX_KNOWN));
        assert!(known.contains(address(0)) && known.contains(address(MAX_KNOWN)));
        assert!(!known.contains(address(1)));
    }
}
