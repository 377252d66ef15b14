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

/// Of the places that are free, what one address may have: each that has none then finds one, where a few dozen have all that they can.
const SHARE_OF_FREE: usize = 8;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct ConnectionBounds {
    limits: ConnectionLimits,
    /// Have a place whatever the others have.
    preferred: Arc<[IpAddr]>,
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
            preferred: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// With addresses that the bounds of all and of one address do not keep out, such as the kubelet's. Each may have as many connections
    /// as there may be in total, beside those of the others.
    pub fn preferring(self, addresses: &[IpAddr]) -> Self {
        Self {
            preferred: addresses.iter().map(IpAddr::to_canonical).collect(),
            ..self
        }
    }

    /// A place, if there is one.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock();
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let max_of_address = match self.preferred.contains(&address.to_canonical()) {
            true => self.limits.total,
            false => self.max_of_address(&counts),
        };
        if of_address >= max_of_address {
            return None;
        }
        counts.total += 1;
        counts.without_request += 1;
        counts.by_address.insert(address, of_address + 1);
        Some(Place {
            counts: self.counts.clone(),
            address,
            max_of_pod: self.limits.by_pod,
            state: Mutex::new(PlaceState::WithoutRequest),
        })
    }

    /// None where there is no room, and the less the less room there is: those that take many leave some to who comes later.
    fn max_of_address(&self, counts: &Counts) -> usize {
        let limits = &self.limits;
        // More than there may be, where preferred addresses have some.
        let in_total = limits.total.saturating_sub(counts.total);
        let without_request = limits.without_request.saturating_sub(counts.without_request);
        match in_total.min(without_request) {
            0 => 0,
            free => (free / SHARE_OF_FREE).clamp(1, limits.unauthenticated_by_address),
        }
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
    fn a_crowd_of_addresses_leaves_places_to_those_that_have_none() {
        let limits = ConnectionLimits {
            total: 20_000,
            without_request: 4_000,
            unauthenticated_by_address: 200,
            by_pod: 16,
        };
        let bounds = ConnectionBounds::new(limits);
        let mut kept = Vec::new();
        for last in 1..=25 {
            kept.extend((0..200).map_while(|_| bounds.enter(address(last))));
        }
        assert!(kept.len() > 3_000, "they have most: {}", kept.len());
        for last in 101..=125 {
            kept.extend([(); 2].map(|()| bounds.enter(address(last)).expect("there is room for others")));
        }
    }

    #[test]
    fn a_preferred_address_has_a_place_where_others_have_them_all() {
        let node = IpAddr::from([10, 0, 1, 1]);
        let bounds = bounds().preferring(&[node]);
        let others: Vec<Place> = (0..100).filter_map(|last| bounds.enter(address(last))).collect();
        assert_eq!(others.len(), 4);
        // As a listener for both families has it.
        let of_node = [(); 5].map(|()| bounds.enter("::ffff:10.0.1.1".parse().unwrap()).unwrap());
        drop(others);
        assert!(bounds.enter(address(1)).is_none(), "they count with all");
        drop(of_node);
        assert_nothing_is_left(&bounds);
    }

    #[test]
    fn one_address_cannot_take_the_places_of_the_others() {
        let bounds = ConnectionBounds::new(ConnectionLimits {
            total: 60,
            without_request: 40,
            unauthenticated_by_address: 2,
            by_pod: 2,
        });
        let of_one = [(); 2].map(|()| bounds.enter(address(1)).unwrap());
        assert!(bounds.enter(address(1)).is_none());
        let others: Vec<Place> = (2..100).filter_map(|last| bounds.enter(address(last))).collect();
        assert_eq!(others.len(), 38, "too many wait in total");
        for place in of_one.iter().chain(&others) {
            place.has_request();
            place.has_request();
        }
        assert!(
            bounds.enter(address(1)).is_none(),
            "a request that anybody can send makes no room for more"
        );
        let more: Vec<Place> = (100..200)
            .filter_map(|last| bounds.enter(address(last)))
            .collect();
        assert_eq!(more.len(), 20, "too many in total");
        drop((of_one, others, more));
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
