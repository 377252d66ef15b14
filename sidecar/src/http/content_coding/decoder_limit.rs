//! Decoder limit: bounds what the decoders of request bodies hold, over all worker threads. Nobody who sends a body is
//! authenticated before LiteLLM has the whole of it, so where a decoder is needed and there is no room for it, those end
//! whose body does not come: first those that have cost more than their share, then those that are slow, at last those that
//! have paused.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::GZIP_BYTES;
use super::decoder::Decoder;
use crate::http::body_progress::BodyProgress;

const DEFAULT_BYTES: usize = 16 * 1024 * 1024;
/// Of four parts, what decoders with a window of their own may hold, which is up to seventy times what the others need.
const WINDOWED_QUARTERS: usize = 3;
/// Whoever sends a body in gzip for longer than this has its decoder only as long as nobody else needs it. A decoder that
/// needs more has it for less time in proportion: what counts is the memory taken from others, times how long.
const GUARANTEED_TIME: Duration = Duration::from_secs(30);
/// However large the window is.
const MIN_GUARANTEED_TIME: Duration = Duration::from_secs(1);
/// What all bodies together may become in one turn of the worker's loop, where each has its turn. It may be a thousand times as
/// long as what has come, so that others would wait for as long as it takes to look at that.
const TURN_BYTES: usize = 1024 * 1024;
/// Of one body.
const MAX_SHARE_BYTES: usize = 128 * 1024;
const MIN_SHARE_BYTES: usize = 4 * 1024;
/// Looks in a row, the first of which may have come an instant after the last byte.
const LOOKS_OF_ONE_PAUSE: u32 = 1;

/// How much may be held at the same time. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct DecoderLimit(Arc<Shared>);

struct Shared {
    bytes: usize,
    /// How many there are.
    count: AtomicUsize,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    held: usize,
    /// By those with a window.
    windowed: usize,
    next_id: u64,
    all: HashMap<u64, Arc<Holder>>,
}

/// What a decoder needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Need {
    pub bytes: usize,
    /// Whether the body says how large its window is.
    pub is_windowed: bool,
}

/// Why a decoder may end for another one, the soonest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Eviction {
    /// It was held for longer than is guaranteed, at this cost in bytes times milliseconds.
    Overdue { cost: Reverse<u128> },
    /// So often in a row next to nothing had come.
    Slow { looks: Reverse<u32> },
    /// A single look found that nothing came, which a packet that was lost explains.
    Paused,
}

struct Holder {
    need: Need,
    since: Instant,
    progress: Arc<BodyProgress>,
    /// `None` once somebody else has got its room.
    decoder: Mutex<Option<Decoder>>,
    /// Of whoever waits for the rest of the body.
    waker: AtomicWaker,
}

/// A decoder, and its room until this is dropped.
pub struct Lease {
    limit: DecoderLimit,
    id: u64,
    holder: Arc<Holder>,
}

/// There is no room for a decoder, or it was needed for another one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoRoom;

impl Need {
    fn guaranteed_time(self) -> Duration {
        let share = GUARANTEED_TIME.mul_f64(GZIP_BYTES as f64 / self.bytes.max(GZIP_BYTES) as f64);
        share.max(MIN_GUARANTEED_TIME)
    }
}

impl DecoderLimit {
    /// This many bytes, and one decoder in any case.
    pub fn within(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            bytes,
            count: AtomicUsize::new(0),
            holders: Mutex::default(),
        }))
    }

    /// Room for a decoder of a body that gets on as `progress` tells. The decoder is made once there is room.
    pub fn take(
        &self,
        need: Need,
        progress: &Arc<BodyProgress>,
        decoder: impl FnOnce() -> Decoder,
    ) -> Result<Lease, NoRoom> {
        let mut holders = self.0.holders.lock();
        if !holders.have_room(need, self.0.bytes) {
            holders.end_slow(need, self.0.bytes);
        }
        if !holders.have_room(need, self.0.bytes) {
            return Err(NoRoom);
        }
        let id = holders.next_id;
        holders.next_id += 1;
        let holder = Arc::new(Holder {
            need,
            since: Instant::now(),
            progress: progress.clone(),
            decoder: Mutex::new(Some(decoder())),
            waker: AtomicWaker::new(),
        });
        holders.all.insert(id, holder.clone());
        holders.held += need.bytes;
        if need.is_windowed {
            holders.windowed += need.bytes;
        }
        self.0.count.store(holders.all.len(), Relaxed);
        Ok(Lease {
            limit: self.clone(),
            id,
            holder,
        })
    }

    /// How many bytes one body may become before others have their turn: the fewer the more bodies there are.
    pub fn share_of_turn(&self) -> usize {
        let share = TURN_BYTES / self.0.count.load(Relaxed).max(1);
        share.clamp(MIN_SHARE_BYTES, MAX_SHARE_BYTES)
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.0.holders.lock().held
    }
}

impl Default for DecoderLimit {
    fn default() -> Self {
        Self::within(DEFAULT_BYTES)
    }
}

impl fmt::Debug for DecoderLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DecoderLimit")
            .field("bytes", &self.0.bytes)
            .finish_non_exhaustive()
    }
}

impl Holders {
    fn have_room(&self, need: Need, most: usize) -> bool {
        let fits = |held: usize, most: usize| held == 0 || held + need.bytes <= most;
        fits(self.held, most) && (!need.is_windowed || fits(self.windowed, most / 4 * WINDOWED_QUARTERS))
    }

    /// Ends decoders whose body does not come until there is room.
    fn end_slow(&mut self, need: Need, most: usize) {
        let mut evictable: Vec<_> = self
            .all
            .iter()
            .filter_map(|(id, holder)| Some((holder.eviction()?, *id)))
            .collect();
        evictable.sort_unstable();
        let mut ended = 0_usize;
        for (_, id) in evictable {
            if self.have_room(need, most) {
                break;
            }
            ended += usize::from(self.end(id));
        }
        if ended > 0 {
            tracing::warn!(
                ended,
                "clients send compressed bodies so slowly that others would wait: the costliest and slowest were ended"
            );
        }
    }

    /// `false`: it is at work.
    fn end(&mut self, id: u64) -> bool {
        let Some(holder) = self.all.get(&id).cloned() else {
            return false;
        };
        let Some(mut decoder) = holder.decoder.try_lock() else {
            return false;
        };
        *decoder = None;
        drop(decoder);
        self.remove(id);
        holder.waker.wake();
        true
    }

    fn remove(&mut self, id: u64) {
        if let Some(holder) = self.all.remove(&id) {
            self.held -= holder.need.bytes;
            if holder.need.is_windowed {
                self.windowed -= holder.need.bytes;
            }
        }
    }
}

impl Holder {
    /// `None`: it is left alone.
    fn eviction(&self) -> Option<Eviction> {
        if !self.progress.is_awaited() {
            return None;
        }
        let age = self.since.elapsed();
        if age > self.need.guaranteed_time() {
            let cost = Reverse(age.as_millis() * self.need.bytes as u128);
            return Some(Eviction::Overdue { cost });
        }
        match self.progress.slow_looks() {
            0 => None,
            1..=LOOKS_OF_ONE_PAUSE => Some(Eviction::Paused),
            looks => Some(Eviction::Slow {
                looks: Reverse(looks),
            }),
        }
    }
}

impl Lease {
    /// Works with the decoder.
    pub fn with<T>(&self, work: impl FnOnce(&mut Decoder) -> T) -> Result<T, NoRoom> {
        self.holder.decoder.lock().as_mut().map(work).ok_or(NoRoom)
    }

    /// Whether somebody else has got its room; else `waker` is woken when that happens.
    pub fn has_ended(&self, waker: &Waker) -> bool {
        self.holder.waker.register(waker);
        self.holder.decoder.lock().is_none()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Shared { count, holders, .. } = &*self.limit.0;
        let mut holders = holders.lock();
        holders.remove(self.id);
        count.store(holders.all.len(), Relaxed);
    }
}
