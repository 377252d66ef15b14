//! Who was used how recently.

use std::collections::BTreeMap;

/// A turn in the order of use; later ones are greater.
pub(super) type Turn = u64;

/// An order of use.
#[derive(Debug)]
pub(super) struct Recency<T> {
    turns: BTreeMap<Turn, T>,
    next: Turn,
}

impl<T> Default for Recency<T> {
    fn default() -> Self {
        Self {
            turns: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> Recency<T> {
    /// Puts one at the end. Its turn takes it out again.
    pub fn push(&mut self, one: T) -> Turn {
        let turn = self.next;
        self.next += 1;
        self.turns.insert(turn, one);
        turn
    }

    pub fn take(&mut self, turn: Turn) -> Option<T> {
        self.turns.remove(&turn)
    }

    /// Takes out the one that was used least recently.
    pub fn pop(&mut self) -> Option<T> {
        self.turns.pop_first().map(|(_, one)| one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_not_used_for_longest_goes_first() {
        let mut recency = Recency::default();
        let a = recency.push("a");
        recency.push("b");
        let again = recency.take(a).unwrap();
        recency.push(again);
        assert_eq!(
            [recency.pop(), recency.pop(), recency.pop()],
            [Some("b"), Some("a"), None]
        );
    }
}
