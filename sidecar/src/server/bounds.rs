//! Bounds of what clients may take of the sidecar: size of headers, time, connections.

use std::time::Duration;

/// Longest headers of a request, all together. Cookies of a large site come to tens of kilobytes.
pub(super) const MAX_HEADERS: u32 = 128 * 1024;

/// Bounds that tests make smaller.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest time from a connection, or from the answer before, to the end of a request's headers.
    pub headers: Duration,
    /// Connections of one half on one worker at the same time. Those beyond wait in the kernel until others
    /// end, so that memory and file descriptors have a bound, and neither half can use up the other's.
    pub connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            connections: 10_000,
        }
    }
}
