//! TLS handshakes: in turn, and what they agree on.
//!
//! In turn: where thousands of sidecars come in one moment, as after a replica has gone, few shake hands at once. Each
//! takes several times the memory that its connection then has, and what so many take together would stay with the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// At once. One takes a millisecond of a processor.
const MAX_HANDSHAKES: usize = 16;
/// A peer that is slow keeps others waiting for no longer, and none waits longer: peers that mean harm gain no more than that.
const TURN: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Handshakes(Arc<Semaphore>);

impl Default for Handshakes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HANDSHAKES)))
    }
}

impl Handshakes {
    pub async fn in_turn<T>(&self, handshake: impl Future<Output = T>) -> T {
        let turn = timeout(TURN, self.0.acquire()).await;
        let mut handshake = std::pin::pin!(handshake);
        if let Ok(done) = timeout(TURN, &mut handshake).await {
            return done;
        }
        drop(turn);
        handshake.await
    }
}

/// Which version of HTTP a connection is in.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Protocol {
    Http1,
    /// Its first bytes will tell.
    Unknown,
}

impl Protocol {
    /// By the TLS handshake. Sidecars agree on HTTP/1.1, and a connection whose version is known need not keep its first bytes to
    /// look at them, for which hyper would take twice the buffer.
    pub fn agreed_by(alpn: Option<&[u8]>) -> Self {
        match alpn {
            Some(b"http/1.1") => Self::Http1,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_a_thousand_connections_a_few_shake_hands_at_once_and_all_do() {
        let (handshakes, now, most) = (Handshakes::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let (now, most) = (Arc::new(now), Arc::new(most));
        let mut all = JoinSet::new();
        for _ in 0..1000 {
            let (handshakes, now, most) = (handshakes.clone(), now.clone(), most.clone());
            all.spawn(async move {
                let handshake = async {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sleep(Duration::from_millis(1)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                };
                handshakes.in_turn(handshake).await;
            });
        }
        assert_eq!(all.join_all().await.len(), 1000);
        assert_eq!(most.load(Ordering::SeqCst), MAX_HANDSHAKES);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_never_shake_hands_keep_another_one_waiting_for_a_second_at_most() {
        let handshakes = Handshakes::default();
        let mut silent = JoinSet::new();
        for _ in 0..10 * MAX_HANDSHAKES {
            let handshakes = handshakes.clone();
            silent.spawn(async move { handshakes.in_turn(std::future::pending::<()>()).await });
        }
        // They have all begun to wait for their turn, or have it.
        tokio::task::yield_now().await;
        let began = Instant::now();
        handshakes.in_turn(std::future::ready(())).await;
        assert!(
            began.elapsed() <= TURN + Duration::from_millis(1),
            "{:?}",
            began.elapsed()
        );
        handshakes.in_turn(sleep(3 * TURN)).await;
        assert_eq!(
            silent.len(),
            10 * MAX_HANDSHAKES,
            "one that is slow is not given up"
        );
    }
}
