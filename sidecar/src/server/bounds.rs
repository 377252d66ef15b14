//! Bounds of what clients may take of the sidecar: size of headers, time, connections, memory.

use std::time::Duration;

use crate::http::content_coding::MAX_DECODER_BYTES;
use crate::http::transport::UNACKNOWLEDGED_TIMEOUT;

/// Longest headers of a request, all together, and the largest read buffer of a connection. Cookies of a large
/// site come to tens of kilobytes.
pub(super) const MAX_HEADERS: u32 = 64 * 1024;

/// What the process needs besides what clients make it hold: code, routes, the queue of the audit log.
const BASE_MEMORY: u64 = 24 << 20;
/// Where no limit of memory is set.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// A half always has this much, however small the limit is.
const MIN_MEMORY: u64 = 4 << 20;
const MAX_CONNECTIONS: u64 = 10_000;
/// Load balancers keep their connections to a pod for 60 s (AWS) or 600 s (Google Cloud), and send a request at the
/// moment at which a pod that keeps them for less closes one.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(650);
/// File descriptors that are kept for everything but connections of the two halves: listeners, the operator, the
/// health port, and connections kept for the next request.
const RESERVED_FILES: u64 = 512;
/// Where the limit of open files is unknown.
const DEFAULT_FILES: u64 = 1_024;

/// Bounds of one half on one worker. Neither half can use up what the other has.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest time from the first byte of a request to the end of its headers, and from a new connection to the
    /// first byte.
    pub headers: Duration,
    /// How long a connection over HTTP/1.1 may wait for its next request.
    pub keep_alive: Duration,
    /// Longest time that a client may leave an answer untaken.
    pub unread: Duration,
    /// Connections at the same time. For one beyond them the one ends that has waited longest for a request; where
    /// all have one, it waits in the kernel.
    pub connections: usize,
    /// Requests that are answered at the same time, over all connections.
    pub requests: usize,
    /// Bytes that may be held for clients, by the estimates of [`load`](super::load).
    pub memory: usize,
    /// Bytes that looking into compressed bodies may take.
    pub decoding: usize,
}

impl Bounds {
    /// For a process that may have this much memory, in bytes, and this many open files.
    pub fn within(memory: Option<u64>, open_files: Option<u64>) -> Self {
        let memory = memory.unwrap_or(DEFAULT_MEMORY).saturating_sub(BASE_MEMORY);
        // A tenth, but enough for the largest one, which is let in where nobody else has one. Of the rest four of nine parts
        // are for each half, and one is for what is not counted to the byte.
        let decoding = (memory / 10).max(MAX_DECODER_BYTES as u64);
        let memory = (memory.saturating_sub(decoding) / 9 * 4).max(MIN_MEMORY);
        let files = open_files.unwrap_or(DEFAULT_FILES);
        let files = files.saturating_sub(RESERVED_FILES.min(files / 2));
        // Each half has two shares: for connections of clients, and for those on which their requests go on.
        let share = (files / 4).clamp(1, MAX_CONNECTIONS);
        Self {
            connections: as_usize(share),
            requests: as_usize(share),
            memory: as_usize(memory),
            decoding: as_usize(decoding),
            ..Self::default()
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            keep_alive: DEFAULT_KEEP_ALIVE,
            unread: UNACKNOWLEDGED_TIMEOUT,
            connections: as_usize(MAX_CONNECTIONS),
            requests: as_usize(MAX_CONNECTIONS),
            memory: as_usize(DEFAULT_MEMORY),
            decoding: as_usize(DEFAULT_MEMORY / 10),
        }
    }
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_fit_into_the_memory_and_the_files_that_there_are() {
        for memory in [64 << 20, 256 << 20, 4 << 30] {
            for files in [1_024, 4_096, 1 << 20] {
                let bounds = Bounds::within(Some(memory), Some(files));
                let both = |bound: usize| 2 * u64::try_from(bound).unwrap();
                let decoding = u64::try_from(bounds.decoding).unwrap();
                assert!(bounds.decoding >= MAX_DECODER_BYTES, "one is let in at any rate");
                assert!(
                    both(bounds.memory) + decoding + BASE_MEMORY <= memory,
                    "{memory}: {bounds:?}"
                );
                let taken = both(bounds.connections) + both(bounds.requests);
                assert!(
                    taken + RESERVED_FILES.min(files / 2) <= files,
                    "{files}: {bounds:?}"
                );
                assert!(bounds.connections >= 100, "{files}: {bounds:?}");
            }
        }
    }

    #[test]
    fn what_is_tiny_or_unknown_still_serves() {
        let bounds = Bounds::within(Some(1), Some(1));
        assert!(bounds.connections >= 1 && bounds.requests >= 1 && bounds.memory >= 1 << 20);
        let bounds = Bounds::within(None, None);
        assert!(
            bounds.connections >= 100 && bounds.memory > 100 << 20,
            "{bounds:?}"
        );
    }
}
