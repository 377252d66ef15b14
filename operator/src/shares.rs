//! Shares: a number of permits that all callers have together, of which one caller has a part at most. So whoever asks for much waits
//! for itself, and leaves something to the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Callers of which something is remembered at least before those without a share are forgotten.
const MIN_FORGET_AT: usize = 64;

/// How many permits there are: in total and for one caller.
#[derive(Clone, Copy, Debug)]
pub struct ShareLimits {
    pub total: u32,
    pub of_one: u32,
}

/// By what tells callers apart, such as their addresses. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Shares<K>(Arc<SharesInner<K>>);

struct SharesInner<K> {
    limits: ShareLimits,
    total: Arc<Semaphore>,
    /// Those of callers that have a share now, or had one a moment ago.
    of_callers: Mutex<OfCallers<K>>,
}

struct OfCallers<K> {
    semaphores: HashMap<K, Weak<Semaphore>>,
    /// At how many those without a share are forgotten.
    forget_at: usize,
}

/// Permits of one caller, free again when this is dropped.
#[derive(Debug)]
pub struct Share {
    _of_caller: OwnedSemaphorePermit,
    _of_total: OwnedSemaphorePermit,
}

impl<K: Eq + Hash> Shares<K> {
    pub fn new(limits: ShareLimits) -> Self {
        Self(Arc::new(SharesInner {
            limits,
            total: Arc::new(Semaphore::new(limits.total as usize)),
            of_callers: Mutex::new(OfCallers {
                semaphores: HashMap::new(),
                forget_at: MIN_FORGET_AT,
            }),
        }))
    }

    /// So many permits, in turn with the others of this caller and then with all. `None`: more than one caller can have, or they were
    /// not free in time.
    pub async fn take(&self, caller: K, permits: u32, longest_wait: Duration) -> Option<Share> {
        if permits > self.0.limits.of_one {
            return None;
        }
        let of_caller = self.of_caller(caller);
        let total = self.0.total.clone();
        let take = async {
            let of_caller = of_caller.acquire_many_owned(permits).await.ok()?;
            let of_total = total.acquire_many_owned(permits).await.ok()?;
            Some(Share {
                _of_caller: of_caller,
                _of_total: of_total,
            })
        };
        timeout(longest_wait, take).await.ok().flatten()
    }

    fn of_caller(&self, caller: K) -> Arc<Semaphore> {
        let mut of_callers = self.0.of_callers.lock();
        let OfCallers {
            semaphores,
            forget_at,
        } = &mut *of_callers;
        if let Some(semaphore) = semaphores.get(&caller).and_then(Weak::upgrade) {
            return semaphore;
        }
        // Seldom, since there may be thousands that have a share.
        if semaphores.len() >= *forget_at {
            semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
            *forget_at = MIN_FORGET_AT.max(2 * semaphores.len());
        }
        let semaphore = Arc::new(Semaphore::new(self.0.limits.of_one as usize));
        semaphores.insert(caller, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST_WAIT: Duration = Duration::from_secs(2);

    fn shares() -> Shares<u32> {
        Shares::new(ShareLimits { total: 10, of_one: 4 })
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_waits_for_itself_and_takes_nothing_of_the_others() {
        let shares = shares();
        let take = |caller, permits| shares.take(caller, permits, LONGEST_WAIT);
        let first = take(1, 4).await.unwrap();
        assert!(take(1, 1).await.is_none(), "it has all that it may have");
        let _other = take(2, 4).await.expect("another caller has a part of its own");
        assert!(take(3, 3).await.is_none(), "two are left in total");
        let _third = take(3, 2).await.unwrap();
        drop(first);
        take(1, 4).await.expect("what was given back is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_to_wait_gets_a_turn_when_something_is_given_back() {
        let shares = shares();
        let first = shares.take(1, 3, LONGEST_WAIT).await.unwrap();
        let (waiting, ()) = tokio::join!(shares.take(1, 2, LONGEST_WAIT), async {
            tokio::time::sleep(LONGEST_WAIT / 2).await;
            drop(first);
        });
        assert!(waiting.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_one_caller_can_have_is_refused_at_once_and_little_is_kept_of_callers_that_went() {
        let shares = shares();
        let began = tokio::time::Instant::now();
        assert!(shares.take(1, 5, LONGEST_WAIT).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        for caller in 0..1_000 {
            shares.take(caller, 1, LONGEST_WAIT).await.unwrap();
        }
        assert!(shares.0.of_callers.lock().semaphores.len() <= MIN_FORGET_AT);
    }
}
