//! Decoder limit: bounds what the decoders of request bodies hold, over all worker threads. Nobody who sends a body is
//! authenticated before LiteLLM has the whole of it, so where a decoder is needed and there is no room for it, those end
//! whose body does not come: the slowest first, then those that have taken long.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::decoder::Decoder;
use crate::http::body_progress::BodyProgress;

const DEFAULT_BYTES: usize = 16 * 1024 * 1024;
/// Of four parts, what decoders with a window of their own may hold, which is up to seventy times what the others need.
const WINDOWED_QUARTERS: usize = 3;
/// Whoever sends a body for longer than this has its decoder only as long as nobody else needs it.
const GUARANTEED_TIME: Duration = Duration::from_secs(30);

/// How much may be held at the same time. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct DecoderLimit(Arc<Shared>);

struct Shared {
    bytes: usize,
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

impl DecoderLimit {
    /// This many bytes, and one decoder in any case.
    pub fn within(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            bytes,
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
        Ok(Lease {
            limit: self.clone(),
            id,
            holder,
        })
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
        let mut slow: Vec<_> = self
            .all
            .iter()
            .filter_map(|(id, holder)| Some((holder.slowness()?, *id)))
            .collect();
        slow.sort_unstable();
        let mut ended = 0_usize;
        for (_, id) in slow {
            if self.have_room(need, most) {
                break;
            }
            ended += usize::from(self.end(id));
        }
        if ended > 0 {
            tracing::warn!(
                ended,
                "clients send compressed bodies so slowly that others would wait: the slowest were ended"
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
    /// The smaller the sooner it ends; `None` where it is left alone.
    fn slowness(&self) -> Option<(bool, u64)> {
        match self.progress.slow_since() {
            Some(since) => Some((false, since)),
            None if self.progress.is_awaited() && self.since.elapsed() > GUARANTEED_TIME => Some((true, 0)),
            None => None,
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
        self.limit.0.holders.lock().remove(self.id);
    }
}
