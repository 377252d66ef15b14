//! Byte budget: how many bytes are kept of what servers answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The sum of all that is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteBudget(Arc<AtomicUsize>);

/// Counts in the sum for as long as it is there.
#[derive(Debug)]
pub(super) struct BudgetShare {
    bytes: usize,
    budget: ByteBudget,
}

impl ByteBudget {
    pub fn put(&self, bytes: usize) -> BudgetShare {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        BudgetShare {
            bytes,
            budget: self.clone(),
        }
    }

    pub fn total(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_counts_no_more() {
        let budget = ByteBudget::default();
        let (first, second) = (budget.put(3), budget.put(4));
        assert_eq!(budget.total(), 7);
        drop(first);
        assert_eq!(budget.total(), 4);
        drop(second);
        assert_eq!(budget.total(), 0);
    }
}
