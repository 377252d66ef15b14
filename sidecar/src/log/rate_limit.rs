//! Rate limit of log lines: of those that say the same, by where they come from, their `reason` and their `server`, so
//! many are written in a while. Strangers can make the sidecar refuse requests, and each refusal is a line.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use super::DroppedLines;

const WINDOW: Duration = Duration::from_secs(10);
const LINES_IN_WINDOW: u32 = 20;
/// Reasons and servers are few, so there are never as many; beyond them all are counted as one.
const MAX_KINDS: usize = 1_000;

pub struct RateLimit {
    windows: Mutex<HashMap<u64, Window>>,
    dropped: DroppedLines,
}

struct Window {
    began: Instant,
    lines: u32,
}

/// Hashes what tells one kind of line from another.
struct Kind(DefaultHasher);

impl RateLimit {
    pub fn new(dropped: DroppedLines) -> Self {
        Self {
            windows: Mutex::default(),
            dropped,
        }
    }

    fn allows(&self, kind: u64, now: Instant) -> bool {
        let mut windows = self.windows.lock();
        if windows.len() >= MAX_KINDS && !windows.contains_key(&kind) {
            windows.retain(|_, window| now.duration_since(window.began) < WINDOW);
        }
        let kind = if windows.len() < MAX_KINDS || windows.contains_key(&kind) {
            kind
        } else {
            0
        };
        let window = windows.entry(kind).or_insert(Window { began: now, lines: 0 });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, lines: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        window.lines <= LINES_IN_WINDOW
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        // Who asks for more than `info` wants every line.
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut kind = Kind(DefaultHasher::new());
        event.metadata().callsite().hash(&mut kind.0);
        event.record(&mut kind);
        let allowed = self.allows(kind.0.finish(), Instant::now());
        if !allowed {
            self.dropped.count_repeated();
        }
        allowed
    }
}

impl Visit for Kind {
    fn record_str(&mut self, field: &Field, value: &str) {
        if matches!(field.name(), "reason" | "server") {
            (field.name(), value).hash(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if matches!(field.name(), "reason" | "server") {
            (field.name(), format!("{value:?}")).hash(&mut self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::prelude::*;

    use super::*;
    use crate::log::lossy_writer::LossyWriter;

    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_short_and_the_others_are_written() {
        let (output, dropped) = (Shared::default(), DroppedLines::default());
        let writer = LossyWriter::start(output.clone(), dropped.clone()).unwrap();
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .with_writer(writer.clone())
            .with_filter(RateLimit::new(dropped.clone()));
        with_default(tracing_subscriber::registry().with(lines), || {
            for number in 0..1_000 {
                tracing::warn!(reason = "flood", number, "request refused");
            }
            for reason in ["other", "third"] {
                tracing::warn!(reason, "request refused");
            }
            for number in 0..50 {
                tracing::debug!(reason = "flood", number, "asked for");
            }
        });
        assert!(writer.flush(Duration::from_secs(30)));
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count("request refused"), LINES_IN_WINDOW as usize + 2, "{text}");
        assert_eq!((count("other"), count("third"), count("asked for")), (1, 1, 50));
        assert_eq!(dropped.repeated(), 1_000 - u64::from(LINES_IN_WINDOW));
    }

    #[test]
    fn after_a_while_the_same_is_written_again_and_the_kinds_are_bounded() {
        let limit = RateLimit::new(DroppedLines::default());
        let now = Instant::now();
        let allowed = |now| (0..100).filter(|_| limit.allows(7, now)).count();
        assert_eq!((allowed(now), allowed(now)), (20, 0));
        assert_eq!(allowed(now + WINDOW), 20);
        for kind in 0..10_000 {
            limit.allows(kind, now + WINDOW);
        }
        assert!(limit.windows.lock().len() <= MAX_KINDS);
    }
}
