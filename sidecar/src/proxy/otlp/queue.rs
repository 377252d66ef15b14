//! The records that wait for a collector: a bounded queue for each signal, of which batches are taken.

use std::collections::VecDeque;

use mcp_auth_protocol::otlp::{LOGS_PATH, TRACES_PATH};

/// Records of one signal that wait.
const MAX_QUEUED: usize = 4096;
/// Bytes that these hold.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;
/// Records that are sent at once, and their bytes.
const MAX_BATCH: usize = 512;
const MAX_BATCH_BYTES: usize = 512 * 1024;

/// Kinds of records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    Logs,
    Spans,
}

impl Signal {
    pub const ALL: [Self; 2] = [Self::Logs, Self::Spans];

    pub fn path(self) -> &'static str {
        match self {
            Self::Logs => LOGS_PATH,
            Self::Spans => TRACES_PATH,
        }
    }
}

/// Records of one signal, the oldest first.
#[derive(Default)]
pub struct Queue {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    /// Whether there was room for it.
    pub fn push(&mut self, record: Vec<u8>) -> bool {
        let has_room = self.records.len() < MAX_QUEUED && self.bytes + record.len() <= MAX_QUEUED_BYTES;
        if has_room {
            self.bytes += record.len();
            self.records.push_back(record);
        }
        has_room
    }

    /// The oldest records, as many as are sent at once: at least one, unless there is none.
    pub fn take_batch(&mut self) -> Vec<Vec<u8>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(record) = self.records.front() {
            if batch.len() == MAX_BATCH || !batch.is_empty() && bytes + record.len() > MAX_BATCH_BYTES {
                break;
            }
            bytes += record.len();
            batch.extend(self.records.pop_front());
        }
        self.bytes -= bytes;
        batch
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_keeps_what_came_first_and_has_room_again_after_a_batch() {
        let mut queue = Queue::default();
        for number in 0..MAX_QUEUED {
            assert!(queue.push(number.to_le_bytes().to_vec()));
        }
        assert!(!queue.push(vec![0]), "it is full");
        let batch = queue.take_batch();
        assert_eq!(batch.len(), MAX_BATCH);
        assert_eq!(batch[0], 0_usize.to_le_bytes());
        assert!(queue.push(vec![0]));
    }

    #[test]
    fn bytes_are_bounded_in_the_queue_and_in_a_batch() {
        let mut queue = Queue::default();
        let half = vec![b'x'; MAX_BATCH_BYTES / 2];
        let fits = std::iter::from_fn(|| queue.push(half.clone()).then_some(())).count();
        assert_eq!(fits, MAX_QUEUED_BYTES / half.len());
        assert_eq!(queue.take_batch().len(), 2);
        while !queue.is_empty() {
            queue.take_batch();
        }
        assert!(queue.push(vec![0; MAX_BATCH_BYTES + 1]));
        assert_eq!(
            queue.take_batch().len(),
            1,
            "a long record is sent alone, and holds up nothing"
        );
        assert_eq!(queue.bytes, 0);
    }
}
