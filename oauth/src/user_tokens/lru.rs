//! LRU order: who was used least recently.

use std::collections::BTreeMap;

/// A position in the order of use; later ones are greater.
pub(super) type LruPosition = u64;

/// An order of use.
#[derive(Debug)]
pub(super) struct LruOrder<T> {
    positions: BTreeMap<LruPosition, T>,
    next: LruPosition,
}

impl<T> Default for LruOrder<T> {
    fn default() -> Self {
        Self {
            positions: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> LruOrder<T> {
    /// Puts one at the end. Its position takes it out again.
    pub fn push(&mut self, one: T) -> LruPosition {
        let position = self.next;
        self.next += 1;
        self.positions.insert(position, one);
        position
    }

    pub fn take(&mut self, position: LruPosition) -> Option<T> {
        self.positions.remove(&position)
    }

    /// Takes out the one that was used least recently.
    pub fn pop(&mut self) -> Option<T> {
        self.positions.pop_first().map(|(_, one)| one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_not_used_for_longest_goes_first() {
        let mut order = LruOrder::default();
        let a = order.push("a");
        order.push("b");
        let again = order.take(a).unwrap();
        order.push(again);
        assert_eq!(
            [order.pop(), order.pop(), order.pop()],
            [Some("b"), Some("a"), None]
        );
    }
}
