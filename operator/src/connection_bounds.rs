//! Connection bounds: how many a listener keeps at once. Any pod of the cluster can connect; one that sends no
//! request counts by its address too, so that it cannot take the places of the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub total: usize,
    /// Without a request yet, of all addresses and of one.
    pub without_request: usize,
    pub without_request_by_address: usize,
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
}

/// One connection's place, free again when this is dropped.
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    /// Until there is a request.
    waiting: Mutex<Option<IpAddr>>,
}

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
            || of_address >= limits.without_request_by_address
        {
            return None;
        }
        counts.total += 1;
        counts.without_request += 1;
        counts.by_address.insert(address, of_address + 1);
        Some(Place {
            counts: self.counts.clone(),
            waiting: Mutex::new(Some(address)),
        })
    }
}

impl Place {
    /// The connection has sent a request: from now on it counts in total only.
    pub fn has_request(&self) {
        if let Some(address) = self.waiting.lock().take() {
            self.counts.lock().leave_waiting(address);
        }
    }
}

impl Counts {
    fn leave_waiting(&mut self, address: IpAddr) {
        self.without_request -= 1;
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.has_request();
        self.counts.lock().total -= 1;
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
            without_request_by_address: 2,
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
        let more = [(); 2].map(|()| bounds.enter(address(1)).unwrap());
        assert!(bounds.enter(address(4)).is_none(), "too many in total");
        drop((first, second, more));
        let counts = bounds.counts.lock();
        assert_eq!(
            (counts.total, counts.without_request, counts.by_address.len()),
            (0, 0, 0)
        );
    }
}
