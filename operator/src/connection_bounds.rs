//! Connection bounds: how many a listener keeps at once. Any pod of the cluster can connect; a connection without a good token
//! counts by its address, and one by which a pod has shown its token by that pod, so that none of them can take the
//! places of the others. Where all places are taken, a newcomer has that of the address that has most. Any pod can ask for a token of
//! its own, so that the connection of one that no resource selects gives way too: the namespace that has most of them loses one
//! first. That of a pod that is entitled to something stays, unless all places are taken by such ones and its namespace has more than a
//! quarter of them: who may create a resource can entitle any number of pods.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

/// Where all places are taken, a namespace keeps as many as this part of them, whatever its pods are entitled to.
const SHARE_OF_NAMESPACE: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub total: usize,
    /// Without a request yet, of all addresses.
    pub without_request: usize,
    /// Of one address, without a request yet or with requests that showed no good token.
    pub unauthenticated_by_address: usize,
    /// Of one pod that has shown its token.
    pub by_pod: usize,
    /// Of pods that have shown their tokens and are not known to be entitled to anything, where all places are taken: beyond so many
    /// they give way first.
    pub not_entitled: usize,
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
    unauthenticated: Connections<IpAddr>,
    /// Of these the ones without a request.
    without_request: Connections<IpAddr>,
    /// Of addresses that are preferred: they give way to nobody.
    of_preferred: usize,
    /// Of pods that have shown their tokens and are not known to be entitled to anything, by namespace.
    not_entitled: Connections<Arc<str>>,
    /// Of those that are, by namespace.
    entitled: Connections<Arc<str>>,
    /// By uid.
    by_pod: HashMap<Arc<str>, usize>,
}

/// By whom they count for, such as an address, and by number within one, the oldest first.
struct Connections<K> {
    count: usize,
    by_key: HashMap<K, BTreeMap<u64, Arc<Notify>>>,
    /// Each key once, by how many it has and of as many by its oldest: the last one gives way first.
    order: BTreeSet<(usize, Reverse<u64>, K)>,
}

impl<K> Default for Connections<K> {
    fn default() -> Self {
        Self {
            count: 0,
            by_key: HashMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Connections<K> {
    fn of(&self, key: &K) -> usize {
        self.by_key.get(key).map_or(0, BTreeMap::len)
    }

    fn insert(&mut self, key: &K, number: u64, close: Arc<Notify>) {
        self.change(key, |connections| {
            connections.insert(number, close);
        });
        self.count += 1;
    }

    /// Nothing where it was not there any more.
    fn remove(&mut self, key: &K, number: u64) -> Option<Arc<Notify>> {
        let mut close = None;
        self.change(key, |connections| close = connections.remove(&number));
        self.count -= usize::from(close.is_some());
        close
    }

    /// Takes the place of this connection, whose task is notified of that.
    fn close(&mut self, key: &K, number: u64) {
        if let Some(close) = self.remove(key, number) {
            close.notify_one();
        }
    }

    fn change(&mut self, key: &K, change: impl FnOnce(&mut BTreeMap<u64, Arc<Notify>>)) {
        let place = |connections: &BTreeMap<u64, Arc<Notify>>| {
            let (oldest, _) = connections.first_key_value()?;
            Some((connections.len(), Reverse(*oldest), key.clone()))
        };
        let connections = self.by_key.entry(key.clone()).or_default();
        if let Some(place) = place(connections) {
            self.order.remove(&place);
        }
        change(connections);
        match place(connections) {
            Some(place) => drop(self.order.insert(place)),
            None => drop(self.by_key.remove(key)),
        }
    }

    /// What has most, or of those that have as many the one whose oldest is the oldest.
    fn largest(&self) -> Option<K> {
        self.order.last().map(|(_, _, key)| key.clone())
    }

    fn oldest_of(&self, key: &K) -> Option<u64> {
        let (number, _) = self.by_key.get(key)?.first_key_value()?;
        Some(*number)
    }

    /// Takes the place of the oldest connection of what has most. False where there is none.
    fn close_one(&mut self) -> bool {
        let Some(key) = self.largest() else {
            return false;
        };
        if let Some(number) = self.oldest_of(&key) {
            self.close(&key, number);
        }
        true
    }
}

impl Counts {
    fn total(&self) -> usize {
        self.unauthenticated.count + self.of_preferred + self.not_entitled.count + self.entitled.count
    }

    fn close_unauthenticated(&mut self, address: IpAddr, number: u64) {
        self.without_request.remove(&address, number);
        self.unauthenticated.close(&address, number);
    }

    /// Makes room for one more, if there is or can be any.
    fn make_room(&mut self, limits: &ConnectionLimits) -> bool {
        if self.without_request.count >= limits.without_request {
            let Some(address) = self.without_request.largest() else {
                return false;
            };
            if let Some(number) = self.without_request.oldest_of(&address) {
                self.close_unauthenticated(address, number);
            }
        }
        // More than there may be, where preferred addresses have some.
        if self.total() >= limits.total {
            if self.not_entitled.count > limits.not_entitled {
                return self.not_entitled.close_one();
            }
            let Some(address) = self.unauthenticated.largest() else {
                return self.not_entitled.close_one() || self.close_entitled(limits);
            };
            let silent = self.without_request.oldest_of(&address);
            if let Some(number) = silent.or_else(|| self.unauthenticated.oldest_of(&address)) {
                self.close_unauthenticated(address, number);
            }
        }
        true
    }

    /// Takes the place of the oldest connection of the namespace that has most, if those are more than its share.
    fn close_entitled(&mut self, limits: &ConnectionLimits) -> bool {
        let largest = self.entitled.largest();
        let is_beyond = largest.is_some_and(|namespace| {
            self.entitled.of(&namespace) > (limits.total / SHARE_OF_NAMESPACE).max(1)
        });
        is_beyond && self.entitled.close_one()
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
    OfPod {
        uid: Arc<str>,
        namespace: Arc<str>,
        is_entitled: bool,
    },
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
                counts.unauthenticated.of(&address),
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
                counts.without_request.insert(&address, number, close.clone());
                counts.unauthenticated.insert(&address, number, close.clone());
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
            .remove(&self.address, self.number);
    }

    /// A request of the connection has shown the token of the pod with this uid: from now on it counts as that pod's, and no longer
    /// by its address, which many pods may have. What shows tokens of several pods, such as a proxy, stays the first one's.
    pub fn authenticated(&self, namespace: &str, uid: &str) -> Result<(), TooManyOfPodError> {
        self.has_request();
        let mut state = self.state.lock();
        if matches!(*state, PlaceState::OfPod { .. }) {
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
            _ if counts
                .unauthenticated
                .remove(&self.address, self.number)
                .is_none() =>
            {
                return Ok(());
            }
            _ => {}
        }
        let (namespace, uid): (Arc<str>, Arc<str>) = (namespace.into(), uid.into());
        counts
            .not_entitled
            .insert(&namespace, self.number, self.close.clone());
        counts.by_pod.insert(uid.clone(), of_pod + 1);
        *state = PlaceState::OfPod {
            uid,
            namespace,
            is_entitled: false,
        };
        Ok(())
    }

    /// The pod that has shown its token is entitled to something: from now on the connection gives way only where its namespace takes
    /// more than its share of all places.
    pub fn entitled(&self) {
        let mut state = self.state.lock();
        if let PlaceState::OfPod {
            namespace,
            is_entitled,
            ..
        } = &mut *state
            && !*is_entitled
        {
            let mut counts = self.counts.lock();
            // Otherwise it is being closed.
            if let Some(close) = counts.not_entitled.remove(namespace, self.number) {
                counts.entitled.insert(namespace, self.number, close);
                *is_entitled = true;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        match self.state.get_mut() {
            PlaceState::Preferred => counts.of_preferred -= 1,
            PlaceState::Unauthenticated => {
                counts.without_request.remove(&self.address, self.number);
                counts.unauthenticated.remove(&self.address, self.number);
            }
            PlaceState::OfPod {
                uid,
                namespace,
                is_entitled,
            } => {
                let of_namespace = match is_entitled {
                    true => &mut counts.entitled,
                    false => &mut counts.not_entitled,
                };
                drop(of_namespace.remove(namespace, self.number));
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
mod tests;
