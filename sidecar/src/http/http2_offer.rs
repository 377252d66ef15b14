//! Whether a server is offered HTTP/2: not where its resource says so, and not for a while once an answer over it was
//! malformed. Some servers speak nothing else; such are offered it again at once.

use std::error::Error;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::AlertDescription;
use tokio::time::Instant;

use super::connect::ConnectError;

/// How long HTTP/2 is not offered after a malformed answer. One wrong answer of many may have been a single tool's.
const PAUSE: Duration = Duration::from_secs(600);

/// Of one server.
pub struct Http2Offer {
    is_disabled: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paused_until: Option<Instant>,
    /// When the newest malformed answer came.
    malformed_at: Option<Instant>,
}

impl Http2Offer {
    pub fn new(is_disabled: bool) -> Self {
        Self {
            is_disabled,
            state: Mutex::default(),
        }
    }

    pub fn is_made(&self) -> bool {
        let paused_until = || self.state.lock().paused_until;
        !self.is_disabled && paused_until().is_none_or(|until| until <= Instant::now())
    }

    /// An answer was malformed. Returns whether HTTP/2 was offered before.
    pub fn pause(&self) -> bool {
        let was_made = self.is_made();
        let now = Instant::now();
        let mut state = self.state.lock();
        state.paused_until = Some(now + PAUSE);
        state.malformed_at = Some(now);
        was_made
    }

    /// A connection without the offer failed: whether the server speaks HTTP/2 alone, so that it is offered again.
    pub fn resume_after(&self, error: &ConnectError) -> bool {
        let resumes = !self.is_disabled && !self.is_made() && is_of_protocol(error);
        if resumes {
            self.state.lock().paused_until = None;
        }
        resumes
    }

    /// Whether an answer was malformed not long ago.
    pub fn was_malformed(&self) -> bool {
        let at = self.state.lock().malformed_at;
        at.is_some_and(|at| at.elapsed() < PAUSE)
    }
}

/// Whether the other side speaks none of the protocols that it was offered (RFC 7301 section 3.2).
fn is_of_protocol(error: &ConnectError) -> bool {
    let mut source = Some(error as &(dyn Error + 'static));
    while let Some(error) = source {
        let within = error.downcast_ref::<std::io::Error>();
        let tls = within.and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) = tls {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::transport::TransportError;

    fn refused(error: rustls::Error) -> ConnectError {
        TransportError::Tls(std::io::Error::other(error)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn is_made_again_after_a_while_or_where_nothing_else_is_spoken() {
        let offer = Http2Offer::new(false);
        assert!(offer.is_made() && !offer.was_malformed());
        assert!(offer.pause(), "it was made before");
        assert!(!offer.pause() && !offer.is_made() && offer.was_malformed());
        tokio::time::advance(PAUSE).await;
        assert!(offer.is_made() && !offer.was_malformed());

        let only_http2 = refused(rustls::Error::AlertReceived(
            AlertDescription::NoApplicationProtocol,
        ));
        assert!(!offer.resume_after(&only_http2), "it was made");
        offer.pause();
        let other = refused(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure));
        assert!(!offer.resume_after(&other) && !offer.resume_after(&ConnectError::Timeout));
        assert!(offer.resume_after(&only_http2) && offer.is_made());
        assert!(offer.was_malformed(), "it is told all the same");

        let disabled = Http2Offer::new(true);
        assert!(!disabled.is_made() && !disabled.resume_after(&only_http2));
    }
}
