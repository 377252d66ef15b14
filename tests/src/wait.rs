//! Waits for what becomes true by and by. The bound is for a test that would hang, not for speed.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// The bound of all that a test waits for. Only a test that fails takes so long, on whatever machine.
pub const LIMIT: Duration = Duration::from_secs(300);
/// The same for kubectl.
pub const KUBECTL_LIMIT: &str = "--timeout=300s";

const PAUSE: Duration = Duration::from_millis(100);

/// Asks again and again until `wanted` says yes, and returns what it said yes to.
pub async fn until<T: Debug>(what: &str, ask: impl AsyncFn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let last = ask().await;
        if wanted(&last) {
            return last;
        }
        assert!(
            began.elapsed() < LIMIT,
            "waited for {what} in vain; at last: {last:#?}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
