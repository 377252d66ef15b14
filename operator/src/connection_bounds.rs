//! Connection bounds: how many a listener keeps at once. Any pod of the cluster can connect; a connection by which nobody
//! has shown a good token counts by its address, and one by which a pod has by that pod, so that none of them can take the
//! places of the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub total: usize,
    /// Without a request yet, of all addresses.
    pub without_request: usize,
    /// Of one address, without a request yet or with requests that showed no good token.
    pub unauthenticated_by_address: usize,
    /// Of one pod that has shown its token.
    pub by_pod: usize,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct ConnectionBounds {
    limits: ConnectionLimits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    without_request: usize,
    by_address: HashMap<IpAddr, usize>,
    /// By uid.
    by_pod: HashMap<Arc<str>, usize>,
}

/// One connection's place, free again when this is dropped.
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
    max_of_pod: usize,
    state: Mutex<PlaceState>,
}

enum PlaceState {
    WithoutRequest,
    Unauthenticated,
    /// With the uid.
    OfPod(Arc<str>),
}

/// The pod has as many connections as one may have.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the pod has {0} connections, and may have no more")]
pub struct TooManyOfPodError(usize);

impl ConnectionBounds {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// A place, if there is one.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock();
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let limits = &self.limits;
        if counts.total >= limits.total
            || counts.without_request >= limits.without_request
            || of_address >= limits.unauthenticated_by_address
        {
            return None;
        }
        counts.total += 1;
        counts.without_request += 1;
        counts.by_address.insert(address, of_address + 1);
        Some(Place {
            counts: self.counts.clone(),
            address,
            max_of_pod: limits.by_pod,
            state: Mutex::new(PlaceState::WithoutRequest),
        })
    }
}

impl Place {
    /// Where the connection comes from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The connection has sent a request.
    pub fn has_request(&self) {
        let mut state = self.state.lock();
        if matches!(*state, PlaceState::WithoutRequest) {
            *state = PlaceState::Unauthenticated;
            self.counts.lock().without_request -= 1;
        }
    }

    /// A request of the connection has shown the token of the pod with this uid: from now on it counts as that pod's, and no longer
    /// by its address, which many pods may have. What shows tokens of several pods, such as a proxy, stays the first one's.
    pub fn authenticated(&self, uid: &str) -> Result<(), TooManyOfPodError> {
        self.has_request();
        let mut state = self.state.lock();
        if matches!(*state, PlaceState::OfPod(_)) {
            return Ok(());
        }
        let mut counts = self.counts.lock();
        let of_pod = counts.by_pod.get(uid).copied().unwrap_or(0);
        if of_pod >= self.max_of_pod {
            return Err(TooManyOfPodError(of_pod));
        }
        let uid: Arc<str> = uid.into();
        counts.by_pod.insert(uid.clone(), of_pod + 1);
        leave(&mut counts.by_address, &self.address);
        *state = PlaceState::OfPod(uid);
        Ok(())
    }
}

/// One connection less.
fn leave<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.has_request();
        let mut counts = self.counts.lock();
        counts.total -= 1;
        match self.state.get_mut() {
            PlaceState::OfPod(uid) => leave(&mut counts.by_pod, uid),
            PlaceState::WithoutRequest | PlaceState::Unauthenticated => {
                leave(&mut counts.by_address, &self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn bounds() -> ConnectionBounds {
        ConnectionBounds::new(ConnectionLimits {
            total: 6,
            without_request: 4,
            unauthenticated_by_address: 2,
            by_pod: 2,
        })
    }

    #[test]
    fn one_address_cannot_take_the_places_of_the_others() {
        let bounds = bounds();
        let first = [(); 2].map(|()| bounds.enter(address(1)).unwrap());
        assert!(bounds.enter(address(1)).is_none());
        let second = [(); 2].map(|()| bounds.enter(address(2)).unwrap());
        assert!(bounds.enter(address(3)).is_none(), "too many wait in total");
        for place in first.iter().chain(&second) {
            place.has_request();
            place.has_request();
        }
        assert!(
            bounds.enter(address(1)).is_none(),
            "a request that anybody can send makes no room for more"
        );
        let third = [(); 2].map(|()| bounds.enter(address(3)).unwrap());
        assert!(bounds.enter(address(4)).is_none(), "too many in total");
        drop((first, second, third));
        assert_nothing_is_left(&bounds);
    }

    #[test]
    fn pods_behind_one_address_count_each_for_itself_once_they_have_shown_their_tokens() {
        let bounds = bounds();
        let of_one = [(); 2].map(|()| {
            let place = bounds.enter(address(1)).unwrap();
            place.authenticated("one").unwrap();
            place.authenticated("one").unwrap();
            place
        });
        let another = bounds.enter(address(1)).unwrap();
        assert_eq!(another.authenticated("one"), Err(TooManyOfPodError(2)));
        another.authenticated("two").unwrap();
        let more = bounds.enter(address(1)).unwrap();
        drop(of_one);
        more.authenticated("one").unwrap();
        drop((another, more));
        assert_nothing_is_left(&bounds);
    }

    fn assert_nothing_is_left(bounds: &ConnectionBounds) {
        let counts = bounds.counts.lock();
        assert_eq!((counts.total, counts.without_request), (0, 0));
        assert!(counts.by_address.is_empty() && counts.by_pod.is_empty());
    }
}
