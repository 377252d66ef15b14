//! Refusal streams: the open event streams of a server with legacy SSE, by their session. Clients of that transport take the
//! answer to a message from the stream and from nowhere else, so that is where the sidecar says why it refuses one.

use std::collections::HashMap;
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
pub struct RefusalStreams(Mutex<HashMap<SessionId, mpsc::Sender<Bytes>>>);

/// One of them, as long as it is open.
pub struct RefusalStream {
    streams: Arc<RefusalStreams>,
    session: SessionId,
    sender: mpsc::Sender<Bytes>,
    events: mpsc::Receiver<Bytes>,
}

impl RefusalStreams {
    pub fn open(self: &Arc<Self>, session: SessionId) -> RefusalStream {
        let (sender, events) = mpsc::channel(MAX_WAITING);
        self.0.lock().insert(session.clone(), sender.clone());
        RefusalStream {
            streams: self.clone(),
            session,
            sender,
            events,
        }
    }

    /// Sends a JSON-RPC message, of one line, into the stream of the session. `false`: there is none, or it is not read.
    pub fn send(&self, session: &SessionId, message: &[u8]) -> bool {
        let sender = self.0.lock().get(session).cloned();
        let event = [b"event: message\ndata: ", message, b"\n\n"].concat();
        sender.is_some_and(|sender| sender.try_send(event.into()).is_ok())
    }
}

impl RefusalStream {
    /// The next event that is to be sent in between.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            // It holds a sender itself, so there is always one.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for RefusalStream {
    fn drop(&mut self) {
        let mut streams = self.streams.0.lock();
        // Another stream may have named the same session since.
        let is_own = |sender: &mpsc::Sender<Bytes>| sender.same_channel(&self.sender);
        if streams.get(&self.session).is_some_and(is_own) {
            streams.remove(&self.session);
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
        let newer = streams.open(first.clone());
        drop(open);
        assert!((0..MAX_WAITING).all(|_| streams.send(&first, b"{}")));
        assert!(!streams.send(&first, b"{}"), "nobody reads it");
        drop(newer);
        assert!(!streams.send(&first, b"{}") && streams.0.lock().is_empty());
    }
}
