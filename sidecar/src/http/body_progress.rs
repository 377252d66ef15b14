//! Progress of a request's body, for load shedding: whether the rest of it is waited for, and how much came since somebody
//! asked. Nobody who sends one is authenticated before its end, since LiteLLM reads it first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Shared by whoever reads the body and whoever asks how it gets on. Both are on one thread.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// The client was asked for more, and nothing has come since.
    is_awaited: AtomicBool,
    received: AtomicUsize,
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
    }

    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(Relaxed)
    }

    /// Bytes that came since the last call; `None` unless the client is waited for.
    pub fn take(&self) -> Option<usize> {
        let received = self.received.swap(0, Relaxed);
        self.is_awaited().then_some(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_is_waited_for_has_progress_to_tell_of() {
        let progress = BodyProgress::default();
        assert_eq!(progress.take(), None);
        progress.awaits();
        assert_eq!(progress.take(), Some(0));
        progress.received(5);
        progress.received(2);
        assert_eq!(progress.take(), None, "whoever takes it has not asked for more");
        progress.received(3);
        progress.awaits();
        assert_eq!(progress.take(), Some(3));
        progress.ended();
        assert_eq!(progress.take(), None);
    }
}
