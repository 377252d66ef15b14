//! Connection bounds: how many a listener keeps at once. Any pod of the cluster can connect; a connection by which nobody
//! has shown a good token counts by its address, and one by which a pod has by that pod, so that none of them can take the
//! places of the others. Where all places are taken, a newcomer has that of whoever has most: however many addresses there
//! are, none of them locks anybody out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

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
    /// Have a place whatever the others have.
    preferred: Arc<[IpAddr]>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    last_number: u64,
    /// Those by which no pod has shown its token.
    unauthenticated: Connections,
    /// Of these the ones without a request.
    without_request: Connections,
    /// Of addresses that are preferred: they give way to nobody.
    of_preferred: usize,
    of_pods: usize,
    /// By uid.
    by_pod: HashMap<Arc<str>, usize>,
}

/// By address, and by number within one, the oldest first.
#[derive(Default)]
struct Connections {
    count: usize,
    by_address: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
    /// Each address once, by how many it has and of as many by its oldest: the last one gives way first.
    order: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
}

impl Connections {
    fn of_address(&self, address: &IpAddr) -> usize {
        self.by_address.get(address).map_or(0, BTreeMap::len)
    }

    fn insert(&mut self, address: IpAddr, number: u64, close: Arc<Notify>) {
        self.change(address, |connections| {
            connections.insert(number, close);
        });
        self.count += 1;
    }

    /// False where it was not there any more.
    fn remove(&mut self, address: IpAddr, number: u64) -> bool {
        let mut is_there = false;
        self.change(address, |connections| {
            is_there = connections.remove(&number).is_some();
        });
        self.count -= usize::from(is_there);
        is_there
    }

    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeMap<u64, Arc<Notify>>)) {
        let place = |connections: &BTreeMap<u64, Arc<Notify>>| {
            let (oldest, _) = connections.first_key_value()?;
            Some((connections.len(), Reverse(*oldest), address))
        };
        let connections = self.by_address.entry(address).or_default();
        if let Some(place) = place(connections) {
            self.order.remove(&place);
        }
        change(connections);
        match place(connections) {
            Some(place) => drop(self.order.insert(place)),
            None => drop(self.by_address.remove(&address)),
        }
    }

    /// The address that has most, or of those that have as many the one whose oldest is the oldest.
    fn largest(&self) -> Option<IpAddr> {
        self.order.last().map(|(_, _, address)| *address)
    }

    fn oldest_of(&self, address: &IpAddr) -> Option<u64> {
        let (number, _) = self.by_address.get(address)?.first_key_value()?;
        Some(*number)
    }
}

impl Counts {
    fn total(&self) -> usize {
        self.unauthenticated.count + self.of_preferred + self.of_pods
    }

    /// Takes the place of this connection, whose end is told to whoever serves it.
    fn close(&mut self, address: IpAddr, number: u64) {
        let connections = self.unauthenticated.by_address.get(&address);
        if let Some(close) = connections.and_then(|connections| connections.get(&number)) {
            close.notify_one();
        }
        self.without_request.remove(address, number);
        self.unauthenticated.remove(address, number);
    }

    /// Makes room for one more, if there is or can be any.
    fn make_room(&mut self, limits: &ConnectionLimits) -> bool {
        if self.without_request.count >= limits.without_request {
            let Some(address) = self.without_request.largest() else {
                return false;
            };
            if let Some(number) = self.without_request.oldest_of(&address) {
                self.close(address, number);
            }
        }
        // More than there may be, where preferred addresses have some.
        if self.total() >= limits.total {
            let Some(address) = self.unauthenticated.largest() else {
                return false;
            };
            let silent = self.without_request.oldest_of(&address);
            if let Some(number) = silent.or_else(|| self.unauthenticated.oldest_of(&address)) {
                self.close(address, number);
            }
        }
        true
    }
}

/// One connection's place, free again when this is dropped.
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
    number: u64,
    close: Arc<Notify>,
    max_of_pod: usize,
    state: Mutex<PlaceState>,
}

enum PlaceState {
    /// Until a pod has shown its token, be there a request or none.
    Unauthenticated,
    /// Of an address that is preferred, likewise.
    Preferred,
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

    /// With addresses that the bounds of all and of one address do not keep out, such as the kubelet's: they may have as many connections
    /// as there may be in total, beside those of the others, and give way to nobody.
    pub fn preferring(self, addresses: &[IpAddr]) -> Self {
        Self {
            preferred: addresses.iter().map(IpAddr::to_canonical).collect(),
            ..self
        }
    }

    /// A place, if there is one, or if somebody has more than the one who comes. Whose place it was is told by [`Place::closed`].
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock();
        let is_preferred = self.preferred.contains(&address.to_canonical());
        let (of_address, max_of_address) = match is_preferred {
            true => (counts.of_preferred, self.limits.total),
            false => (
                counts.unauthenticated.of_address(&address),
                self.limits.unauthenticated_by_address,
            ),
        };
        if of_address >= max_of_address || !is_preferred && !counts.make_room(&self.limits) {
            return None;
        }
        counts.last_number += 1;
        let number = counts.last_number;
        let close = Arc::new(Notify::new());
        let state = match is_preferred {
            true => {
                counts.of_preferred += 1;
                PlaceState::Preferred
            }
            false => {
                counts.without_request.insert(address, number, close.clone());
                counts.unauthenticated.insert(address, number, close.clone());
                PlaceState::Unauthenticated
            }
        };
        Some(Place {
            counts: self.counts.clone(),
            address,
            number,
            close,
            max_of_pod: self.limits.by_pod,
            state: Mutex::new(state),
        })
    }
}

impl Place {
    /// Where the connection comes from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Ends when the connection has to be closed, since a newcomer has its place.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let close = self.close.clone();
        async move { close.notified().await }
    }

    /// The connection has sent a request.
    pub fn has_request(&self) {
        self.counts
            .lock()
            .without_request
            .remove(self.address, self.number);
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
        match *state {
            PlaceState::Preferred => counts.of_preferred -= 1,
            // It is being closed.
            _ if !counts.unauthenticated.remove(self.address, self.number) => return Ok(()),
            _ => {}
        }
        let uid: Arc<str> = uid.into();
        counts.of_pods += 1;
        counts.by_pod.insert(uid.clone(), of_pod + 1);
        *state = PlaceState::OfPod(uid);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        match self.state.get_mut() {
            PlaceState::Preferred => counts.of_preferred -= 1,
            PlaceState::Unauthenticated => {
                counts.without_request.remove(self.address, self.number);
                counts.unauthenticated.remove(self.address, self.number);
            }
            PlaceState::OfPod(uid) => {
                counts.of_pods -= 1;
                if let Some(of_pod) = counts.by_pod.get_mut(&**uid) {
                    *of_pod -= 1;
                    if *of_pod == 0 {
                        counts.by_pod.remove(&**uid);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

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
        for with_requests in [false, true] {
            let bounds = ConnectionBounds::new(limits);
            let mut crowd = Vec::new();
            for last in 1..=200 {
                for _ in 0..200 {
                    let place = bounds.enter(address(last)).expect("each is let in");
                    if with_requests {
                        place.has_request();
                    }
                    crowd.push(place);
                }
            }
            let newcomers: Vec<_> = (201..=240)
                .map(|last| bounds.enter(address(last)).expect("there is room for others"))
                .collect();
            // Who comes later takes the place of whoever has most, and never that of one who has one.
            let more: Vec<_> = (1..=200).filter_map(|last| bounds.enter(address(last))).collect();
            assert!(newcomers.iter().all(|newcomer| !is_closed(newcomer)));
            let all = crowd.iter().chain(&newcomers).chain(&more);
            let open = all.filter(|place| !is_closed(place)).count();
            let allowed = if with_requests { 20_000 } else { 4_000 };
            assert_eq!(open, allowed, "within the bounds");
            drop((crowd, newcomers, more));
            assert_nothing_is_left(&bounds);
        }
    }

    #[test]
    fn where_each_address_has_one_the_oldest_gives_way() {
        let bounds = bounds();
        let places: Vec<_> = (0..100)
            .map(|last| bounds.enter(address(last)).unwrap())
            .collect();
        let open: Vec<_> = places.iter().filter(|place| !is_closed(place)).collect();
        assert_eq!(
            open.iter().map(|place| place.address()).collect::<Vec<_>>(),
            [96, 97, 98, 99].map(address)
        );
        open[0].authenticated("one").unwrap();
        places[0].authenticated("one").unwrap();
        drop(places);
        assert_nothing_is_left(&bounds);
    }

    #[test]
    fn pods_that_have_shown_their_tokens_give_way_to_nobody() {
        let bounds = bounds();
        let of_pods: Vec<_> = (0..6)
            .map(|last| {
                let place = bounds.enter(address(last)).unwrap();
                place.authenticated(&last.to_string()).unwrap();
                place
            })
            .collect();
        assert!(bounds.enter(address(7)).is_none(), "too many in total");
        assert!(!of_pods.iter().any(is_closed));
    }

    #[test]
    fn a_preferred_address_has_a_place_where_others_have_them_all() {
        let node = IpAddr::from([10, 0, 1, 1]);
        let bounds = bounds().preferring(&[node]);
        let others: Vec<Place> = (0..100).filter_map(|last| bounds.enter(address(last))).collect();
        // As a listener for both families has it.
        let of_node = [(); 6].map(|()| bounds.enter("::ffff:10.0.1.1".parse().unwrap()).unwrap());
        assert_eq!(others.iter().filter(|other| !is_closed(other)).count(), 4);
        drop(others);
        assert!(bounds.enter(address(1)).is_none(), "they count with all");
        assert!(!of_node.iter().any(is_closed));
        drop(of_node);
        assert_nothing_is_left(&bounds);
    }

    #[test]
    fn one_address_cannot_take_the_places_of_the_others() {
        let bounds = bounds();
        let of_one = [(); 2].map(|()| bounds.enter(address(1)).unwrap());
        assert!(bounds.enter(address(1)).is_none());
        let others = [2, 3].map(|last| bounds.enter(address(last)).unwrap());
        for place in of_one.iter().chain(&others) {
            place.has_request();
            place.has_request();
        }
        assert!(
            bounds.enter(address(1)).is_none(),
            "a request that anybody can send makes no room for more"
        );
        drop((of_one, others));
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
        assert_eq!((counts.total(), counts.without_request.count), (0, 0));
        for connections in [&counts.unauthenticated, &counts.without_request] {
            assert!(connections.by_address.is_empty() && connections.order.is_empty());
        }
        assert!(counts.by_pod.is_empty());
    }

    /// Told once.
    fn is_closed(place: &Place) -> bool {
        let is_known = |connections: &Connections| {
            let of_address = connections.by_address.get(&place.address);
            of_address.is_some_and(|of_address| of_address.contains_key(&place.number))
        };
        let is_told = place.closed().now_or_never().is_some();
        if is_told {
            // Kept for whoever asks again.
            place.close.notify_one();
        }
        let counts = place.counts.lock();
        let is_unauthenticated = matches!(*place.state.lock(), PlaceState::Unauthenticated);
        assert_eq!(is_told, is_unauthenticated && !is_known(&counts.unauthenticated));
        is_told
    }
}
