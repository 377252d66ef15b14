//! Memory return: what connections have freed goes back to the system. The allocator (mimalloc) gives pages back a second
//! after they were freed, but looks for such only when it takes or frees whole pages: in a sidecar at rest never, and a burst of
//! connections would count as its memory for good.

use std::hint::black_box;

/// So long that it has pages of its own. Never written to, so it costs no memory.
const BLOCK_BYTES: usize = 16 << 20;
/// Connections that are parked in two sweeps after one another are of one burst: the allocator is asked once they have ended,
/// and once more for what it had freed by itself then.
const SWEEPS: u32 = 4;

/// One for each worker, since memory is freed on the thread that took it.
#[derive(Debug)]
pub struct MemoryReturn {
    /// How often connections had been parked at the last sweep.
    parked: u64,
    /// Sweeps in which the allocator is still to be asked.
    remaining: u32,
}

/// What the start took and needs no more goes back first.
impl Default for MemoryReturn {
    fn default() -> Self {
        Self {
            parked: 0,
            remaining: SWEEPS,
        }
    }
}

impl MemoryReturn {
    /// `parked`: how often connections have been parked.
    pub fn sweep(&mut self, parked: u64) {
        if self.is_due(parked) {
            drop(black_box(block(BLOCK_BYTES)));
        }
    }

    fn is_due(&mut self, parked: u64) -> bool {
        if parked != self.parked {
            self.parked = parked;
            self.remaining = SWEEPS;
        } else {
            self.remaining = self.remaining.saturating_sub(1);
        }
        self.remaining > 0
    }
}

/// None where that much cannot be had, as under a limit on the address space: that is no reason to end.
fn block(bytes: usize) -> Option<Vec<u8>> {
    let mut block = Vec::new();
    block.try_reserve_exact(bytes).ok().map(|()| block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_that_much_memory_ends_nothing() {
        assert!(block(isize::MAX as usize).is_none());
        assert!(block(BLOCK_BYTES).is_some_and(|block| block.capacity() >= BLOCK_BYTES));
    }

    #[test]
    fn the_allocator_is_asked_for_a_while_after_the_start_and_after_connections_were_parked_and_not_at_rest()
    {
        let mut memory = MemoryReturn::default();
        let due = [(); 5].map(|()| memory.is_due(0));
        assert_eq!(due, [true, true, true, false, false]);
        let due = [7, 9, 9, 9, 9, 9, 9].map(|parked| memory.is_due(parked));
        assert_eq!(due, [true, true, true, true, true, false, false]);
        assert!(memory.is_due(10));
    }
}
