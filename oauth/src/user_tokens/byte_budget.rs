//! How many bytes are kept of what servers answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The sum of all that is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Scale(Arc<AtomicUsize>);

/// Counts in the sum for as long as it is there.
#[derive(Debug)]
pub(super) struct Weight {
    bytes: usize,
    scale: Scale,
}

impl Scale {
    pub fn put(&self, bytes: usize) -> Weight {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Weight {
            bytes,
            scale: self.clone(),
        }
    }

    pub fn total(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.scale.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_counts_no_more() {
        let scale = Scale::default();
        let (first, second) = (scale.put(3), scale.put(4));
        assert_eq!(scale.total(), 7);
        drop(first);
        assert_eq!(scale.total(), 4);
        drop(second);
        assert_eq!(scale.total(), 0);
    }
}
