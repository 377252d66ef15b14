//! Progress of a request's body, for load shedding: whether the rest of it is waited for, and how much came since somebody
//! asked. Nobody who sends one is authenticated before its end, since LiteLLM reads it first.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// A body of which less comes between two looks gets on too slowly to be left alone where others need its place.
const MIN_BYTES: usize = 1024;

/// Shared by whoever reads the body and whoever looks how it gets on, both on one thread, and by those on other threads who
/// need the place of one that does not.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// The client was asked for more, and nothing has come since.
    is_awaited: AtomicBool,
    received: AtomicUsize,
    has_ended: AtomicBool,
    /// Since when next to nothing comes; 0 where it does.
    slow_since: AtomicU64,
    /// Looks in a row that found next to nothing.
    slow_looks: AtomicU32,
}

impl BodyProgress {
    /// Nothing more is here by now.
    pub fn awaits(&self) {
        self.is_awaited.store(true, Relaxed);
    }

    pub fn received(&self, bytes: usize) {
        self.is_awaited.store(false, Relaxed);
        self.received.store(self.received.load(Relaxed) + bytes, Relaxed);
    }

    /// The body has ended, or nobody wants the rest.
    pub fn ended(&self) {
        self.is_awaited.store(false, Relaxed);
        self.has_ended.store(true, Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    /// Another body begins.
    pub fn begin(&self) {
        self.has_ended.store(false, Relaxed);
        self.renew();
    }

    /// It gets on.
    fn renew(&self) {
        self.slow_since.store(0, Relaxed);
        self.slow_looks.store(0, Relaxed);
    }

    /// Looks how much has come since the last look.
    pub fn look(&self, now: impl FnOnce() -> u64) {
        let received = self.received.swap(0, Relaxed);
        if !self.is_awaited() || received >= MIN_BYTES {
            self.renew();
            return;
        }
        let looks = self.slow_looks.load(Relaxed);
        self.slow_looks.store(looks.saturating_add(1), Relaxed);
        if self.slow_since.load(Relaxed) == 0 {
            self.slow_since.store(now(), Relaxed);
        }
    }

    /// Since when next to nothing comes, by the clock of whoever looks; `None` where something does, or nothing is waited for.
    pub fn slow_since(&self) -> Option<u64> {
        let since = self.slow_since.load(Relaxed);
        (since > 0 && self.is_awaited()).then_some(since)
    }

    /// At how many looks in a row next to nothing had come. The first one may have followed at once on what came before, so
    /// only from the second one on nothing came for all the time between two looks.
    pub fn slow_looks(&self) -> u32 {
        match self.is_awaited() {
            true => self.slow_looks.load(Relaxed),
            false => 0,
        }
    }

    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_is_waited_for_and_does_not_come_is_slow() {
        let progress = BodyProgress::default();
        let looked = |at| {
            progress.look(|| at);
            progress.slow_since()
        };
        assert_eq!(looked(1), None, "whoever takes it has not asked for more");
        progress.awaits();
        assert_eq!(looked(2), Some(2));
        progress.received(5);
        assert_eq!(progress.slow_since(), None, "it is not waited for");
        progress.awaits();
        assert_eq!(looked(3), Some(2), "it drips");
        assert_eq!(progress.slow_looks(), 2);
        progress.received(MIN_BYTES);
        progress.awaits();
        assert_eq!(looked(4), None, "it gets on");
        assert_eq!(progress.slow_looks(), 0);
        assert_eq!(looked(5), Some(5));
        progress.ended();
        assert_eq!(looked(6), None);
        progress.awaits();
        progress.look(|| 7);
        progress.renew();
        assert_eq!((progress.slow_since(), progress.slow_looks()), (None, 0));
    }
}
