//! Connections to the health port: so many at a time, and whose ends for one more. Everybody who reaches the pod may open some, and
//! the kubelet has to be answered all the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;

/// Those that are open, the oldest first.
#[derive(Default)]
pub struct HealthConnections(Vec<Open>);

struct Open {
    peer: IpAddr,
    has_asked: Arc<AtomicBool>,
    serving: AbortHandle,
}

impl HealthConnections {
    /// Makes room for one more: of the address with the most connections the oldest ends that has asked nothing, or else the
    /// oldest.
    pub fn make_room(&mut self) {
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        self.0.retain(|open| !open.serving.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        let mut of_peer = HashMap::<IpAddr, usize>::new();
        for open in &self.0 {
            *of_peer.entry(open.peer).or_default() += 1;
        }
        let most = of_peer.values().copied().max();
        let candidates = self.0.iter().enumerate();
        let candidates = candidates.filter(|(_, open)| of_peer.get(&open.peer).copied() == most);
        let victim = candidates.min_by_key(|(_, open)| open.has_asked.load(Ordering::Relaxed));
        if let Some((index, _)) = victim {
            self.0.remove(index).serving.abort();
        }
    }

    /// `has_asked` is set by the first request.
    pub fn add(&mut self, peer: IpAddr, has_asked: Arc<AtomicBool>, serving: AbortHandle) {
        self.0.push(Open {
            peer,
            has_asked,
            serving,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_most_connections_loses_one_and_first_one_that_asked_nothing() {
        let (kubelet, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut connections = HealthConnections::default();
        let add = |connections: &mut HealthConnections, peer, has_asked| {
            connections.make_room();
            let serving = tokio::spawn(std::future::pending::<()>()).abort_handle();
            connections.add(peer, Arc::new(AtomicBool::new(has_asked)), serving);
        };
        add(&mut connections, kubelet, false);
        add(&mut connections, stranger, true);
        (0..2 * MAX_CONNECTIONS).for_each(|_| add(&mut connections, stranger, false));
        assert_eq!(connections.0.len(), MAX_CONNECTIONS);
        assert_eq!(connections.0[0].peer, kubelet);
        assert!(
            connections.0[1].has_asked.load(Ordering::Relaxed),
            "the others asked nothing"
        );
    }
}
