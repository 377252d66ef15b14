//! A clock that two processes of one machine share, so that an event can say when it was sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds. Nobody sets the clock while a benchmark runs.
pub fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Blocks this thread.
pub fn sleep_until(nanoseconds_then: u64) {
    let remaining = nanoseconds_then.saturating_sub(nanoseconds());
    if remaining > 0 {
        std::thread::sleep(Duration::from_nanos(remaining));
    }
}

/// Has this thread, and those it starts, wake up when they asked for it rather than some 50 microseconds
/// later.
pub fn be_punctual() {
    // Where it cannot be had, every proxy is measured that much slower.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
}
