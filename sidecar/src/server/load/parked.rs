//! Parked connections: those that have waited for their next request for some time. Such a connection holds nothing but
//! its socket; what the protocol needs, two buffers and what belongs to them, is made anew for the next request. Most
//! connections wait most of the time, since clients and load balancers keep more than they use.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::{CONNECTION_BYTES, Connection, PARKED_BYTES, WatchedIo};

/// What of a connection is freed while it is parked.
const FREED_BYTES: usize = CONNECTION_BYTES - PARKED_BYTES;

impl Connection {
    /// Waits until the client sends something, or closes its side. Whoever calls this holds nothing for the connection.
    pub async fn parked(&self) -> io::Result<()> {
        let Some(socket) = self.entry.socket() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.entry.set_parked(true);
        self.load
            .discharge(&self.entry, FREED_BYTES + self.entry.shrink());
        self.load.parked.fetch_add(1, Ordering::Relaxed);
        poll_fn(|cx| socket.lock().poll_read_ready(cx)).await
    }

    /// The connection goes on with `unread`, which was read before and belongs to no request yet. `None`: there is no
    /// memory for it.
    pub fn resume(&self, unread: Bytes) -> Option<WatchedIo<TcpStream>> {
        let socket = self.entry.socket()?;
        if self.entry.is_parked() {
            if !self.load.make_room(FREED_BYTES, Some(&self.entry)) {
                return None;
            }
            self.load.charge(&self.entry, FREED_BYTES);
            self.entry.set_parked(false);
        }
        Some(self.watch_io(socket.clone()).with_unread(unread))
    }
}
