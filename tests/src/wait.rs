//! Waits for what becomes true by and by. The bound is for a test that would hang, not for speed.

use std::fmt::Debug;
use std::time::Duration;

const ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// Asks again and again until `wanted` says yes, and returns what it said yes to.
pub async fn until<T: Debug>(what: &str, ask: impl AsyncFn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let mut last = ask().await;
    for _ in 0..ATTEMPTS {
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(PAUSE).await;
        last = ask().await;
    }
    panic!("waited for {what} in vain; at last: {last:#?}");
}
