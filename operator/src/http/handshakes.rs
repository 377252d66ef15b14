//! TLS handshakes: in turn, and what they agree on.
//!
//! In turn: where thousands of sidecars come in one moment, as after a replica has gone, few shake hands at once. Each
//! takes several times the memory that its connection then has, and what so many take together would stay with the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// At once. One takes a millisecond of a processor.
const MAX_HANDSHAKES: usize = 16;
/// A peer that is slow has its turn for no longer.
const TURN: Duration = Duration::from_secs(1);
/// Where more than one turn in so many is used by a slow peer, a connection waits for its turn for [`TURN`] at most: attackers
/// must not keep sidecars out.
const MADE_FOR_EACH_SLOW: usize = 4;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Handshakes(Arc<Turns>);

struct Turns {
    free: Semaphore,
    /// Turns in which hands were shaken.
    made: AtomicUsize,
    /// Turns that were over before.
    slow: AtomicUsize,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self(Arc::new(Turns {
            free: Semaphore::new(MAX_HANDSHAKES),
            made: AtomicUsize::new(0),
            slow: AtomicUsize::new(0),
        }))
    }
}

impl Handshakes {
    pub async fn in_turn<T>(&self, handshake: impl Future<Output = T>) -> T {
        let turn = self.turn().await;
        let mut handshake = std::pin::pin!(handshake);
        let done = timeout(TURN, &mut handshake).await;
        let ended = match done {
            Ok(_) => &self.0.made,
            Err(_) => &self.0.slow,
        };
        if turn.is_some() {
            ended.fetch_add(1, Ordering::Relaxed);
        }
        drop(turn);
        match done {
            Ok(done) => done,
            Err(_) => handshake.await,
        }
    }

    /// Waits for a turn for as long as turns are put to use, however many wait: the caller says how long that may be. `None`: a
    /// second was not enough, and it is slow peers who have the turns.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let ended = || [&self.0.made, &self.0.slow].map(|turns| turns.load(Ordering::Relaxed));
        let [made, slow] = ended();
        let mut free = std::pin::pin!(self.0.free.acquire());
        loop {
            match timeout(TURN, &mut free).await {
                Ok(turn) => return turn.ok(),
                Err(_) => {
                    let [made_now, slow_now] = ended();
                    let (made, slow) = (made_now.wrapping_sub(made), slow_now.wrapping_sub(slow));
                    if made <= slow.saturating_mul(MADE_FOR_EACH_SLOW) {
                        return None;
                    }
                }
            }
        }
    }
}

/// Until the client has said something: one that says nothing takes no turn. Its first byte is looked at, and stays; that a
/// socket counts as readable says nothing of one that is new.
pub async fn spoken(stream: &TcpStream) -> io::Result<()> {
    stream.peek(&mut [0]).await.map(drop)
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
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Mutex;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_says_nothing_takes_no_turn_and_what_it_says_first_stays_to_be_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(100), spoken(&stream)).await;
        assert!(waited.is_err(), "it said nothing");
        client.write_all(b"hello").await.unwrap();
        spoken(&stream).await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test(start_paused = true)]
    async fn of_thousands_of_connections_a_few_shake_hands_at_once_however_long_it_takes_until_all_have() {
        let (handshakes, now, most) = (Handshakes::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let (now, most) = (Arc::new(now), Arc::new(most));
        let processor = Arc::new(Mutex::new(()));
        let (mut all, began) = (JoinSet::new(), Instant::now());
        for index in 0..4000_u32 {
            let (handshakes, now, most) = (handshakes.clone(), now.clone(), most.clone());
            let processor = processor.clone();
            all.spawn(async move {
                let handshake = async {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // One in a hundred is on a node that is busy.
                    sleep(TURN * u32::from(index % 100 == 0) / 2).await;
                    let _turn = processor.lock().await;
                    sleep(Duration::from_millis(1)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                };
                handshakes.in_turn(handshake).await;
            });
        }
        assert_eq!(all.join_all().await.len(), 4000);
        assert!(began.elapsed() >= 4 * TURN, "they waited for one processor");
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
