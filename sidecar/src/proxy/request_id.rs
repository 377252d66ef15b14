//! Request id: one number in all log lines about a request, and in its audit line. It is of this process alone; the trace
//! id, where a request has one, ties the two halves and other programs together.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::proxy::hex::Hex;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Numbers of processes hardly ever overlap: each begins at random.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(rand::random()));

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestId(u64);

impl RequestId {
    pub fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn hex(self) -> Hex {
        Hex::of(self.0)
    }

    /// That of the request for which this is called, if it is called within [`RequestId::scope`].
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// Runs `request` so that what it logs can tell its number.
    pub fn scope<F: Future>(self, request: F) -> impl Future<Output = F::Output> {
        // No `async fn`, which would have room for `request` twice.
        CURRENT.scope(self, request)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.hex().as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_has_its_own_while_it_lasts() {
        assert_eq!(RequestId::current(), None);
        let (first, second) = (RequestId::next(), RequestId::next());
        assert_ne!(first, second);
        let inner = async {
            tokio::task::yield_now().await;
            RequestId::current()
        };
        assert_eq!(
            tokio::join!(first.scope(inner), second.scope(async { RequestId::current() })),
            (Some(first), Some(second))
        );
        assert_eq!(first.to_string().len(), 16);
    }
}
