//! Refusal streams: the open event streams of a server with legacy SSE, by their session. Clients of that transport take the
//! answer to a message from the stream and from nowhere else, so that is where the sidecar says why it refuses one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::sessions::SessionId;

/// Refusals that wait for one stream; the client of one more is told by the status.
const MAX_WAITING: usize = 16;

/// Those of one server.
#[derive(Default)]
pub struct RefusalStreams(Mutex<HashMap<SessionId, OpenStreams>>);

/// The open streams that announced the same endpoint.
struct OpenStreams {
    count: usize,
    /// `None` from the second stream on until all are closed. Some servers announce the same endpoint to everyone, and
    /// which stream belongs to a message cannot be known then: a client would take the refusal of another's call for that
    /// of its own, which has the same identifier.
    only: Option<mpsc::Sender<Bytes>>,
}

/// One of them, as long as it is open.
pub struct RefusalStream {
    streams: Arc<RefusalStreams>,
    session: SessionId,
    events: mpsc::Receiver<Bytes>,
}

impl RefusalStreams {
    pub fn open(self: &Arc<Self>, session: SessionId) -> RefusalStream {
        let (sender, events) = mpsc::channel(MAX_WAITING);
        match self.0.lock().entry(session.clone()) {
            Entry::Vacant(vacant) => {
                let only = Some(sender);
                vacant.insert(OpenStreams { count: 1, only });
            }
            Entry::Occupied(mut open) => {
                let open = open.get_mut();
                open.count += 1;
                open.only = None;
            }
        }
        RefusalStream {
            streams: self.clone(),
            session,
            events,
        }
    }

    /// Sends a JSON-RPC message, of one line, into the stream of the session. `false`: there is none, or more than one, or
    /// it is not read.
    pub fn send(&self, session: &SessionId, message: &[u8]) -> bool {
        let streams = self.0.lock();
        let Some(sender) = streams.get(session).and_then(|open| open.only.clone()) else {
            return false;
        };
        drop(streams);
        let event = [b"event: message\ndata: ", message, b"\n\n"].concat();
        sender.try_send(event.into()).is_ok()
    }
}

impl RefusalStream {
    /// The next event that is to be sent in between.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            // Without a sender, as where it shares its session with another stream, nothing will come.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for RefusalStream {
    fn drop(&mut self) {
        let mut streams = self.streams.0.lock();
        if let Some(open) = streams.get_mut(&self.session) {
            open.count -= 1;
            if open.count == 0 {
                streams.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_refusal_goes_to_the_stream_of_its_session_as_long_as_that_is_open() {
        let streams = Arc::<RefusalStreams>::default();
        let [first, second] = ["/m?s=1", "/m?s=2"].map(SessionId::of_endpoint);
        let mut cx = Context::from_waker(Waker::noop());
        let mut open = streams.open(first.clone());
        assert!(streams.send(&first, b"{}") && !streams.send(&second, b"{}"));
        let event = "event: message\ndata: {}\n\n";
        assert_eq!(open.poll_event(&mut cx), Poll::Ready(event.into()));
        assert_eq!(open.poll_event(&mut cx), Poll::Pending);
        assert!((0..MAX_WAITING).all(|_| streams.send(&first, b"{}")));
        assert!(!streams.send(&first, b"{}"), "the stream is not read");
        drop(open);
        assert!(!streams.send(&first, b"{}") && streams.0.lock().is_empty());
    }

    #[test]
    fn streams_that_share_a_session_are_sent_nothing_until_all_are_closed() {
        let streams = Arc::<RefusalStreams>::default();
        let session = SessionId::of_endpoint("/messages");
        let mut cx = Context::from_waker(Waker::noop());
        let [mut first, mut second] = [(); 2].map(|()| streams.open(session.clone()));
        assert!(!streams.send(&session, b"{}"));
        assert_eq!(first.poll_event(&mut cx), Poll::Pending);
        assert_eq!(second.poll_event(&mut cx), Poll::Pending);
        // A late message may belong to the stream that is closed.
        drop(first);
        assert!(!streams.send(&session, b"{}"));
        drop(second);
        let mut third = streams.open(session.clone());
        assert!(streams.send(&session, b"{}"));
        assert!(third.poll_event(&mut cx).is_ready());
    }
}
