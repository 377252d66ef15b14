//! The time of day, read once for each request and handed to everything that decides by it.

use std::time::SystemTime;

/// Unix seconds.
pub fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
