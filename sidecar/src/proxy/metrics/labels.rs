//! What tells the series of one metric apart, and the values that a label may have.

use prometheus_client::encoding::EncodeLabelSet;

/// The half of the sidecar that took the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    Inbound,
    Outbound,
}

impl Half {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The outcome of a request's user context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContextResult {
    /// Inbound: there was one, and it went on sealed.
    Sealed,
    /// Outbound: it was opened.
    Opened,
    /// The request has none.
    None,
    /// Outbound: not sealed by this process, or stated twice.
    Forged,
    /// Outbound: too old.
    Expired,
    /// Outbound: not in the form that the sidecar writes.
    Malformed,
    /// Inbound: above the limit, answered with an error.
    TooLarge,
}

impl ContextResult {
    /// In the order of the declaration, which is that of the counters.
    pub(super) const ALL: [Self; 7] = [
        Self::Sealed,
        Self::Opened,
        Self::None,
        Self::Forged,
        Self::Expired,
        Self::Malformed,
        Self::TooLarge,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Opened => "opened",
            Self::None => "none",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why a token was rejected, or a request sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryCause {
    Unauthorized,
    InsufficientScope,
    DpopNonce,
    DpopClock,
    ConnectionEnded,
}

impl RetryCause {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::InsufficientScope => "insufficient_scope",
            Self::DpopNonce => "dpop_nonce",
            Self::DpopClock => "dpop_clock",
            Self::ConnectionEnded => "connection_ended",
        }
    }
}

/// Why a call has no audit line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditDrop {
    /// The writer is slower than the calls. Counted by calls.
    QueueFull,
    /// The output took no more. Counted by lines.
    WriteFailed,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct TokenRefusedLabels {
    pub(super) whose: &'static str,
    pub(super) why: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ReplayLabels {
    pub(super) why: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ExchangeLabels {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct RequestLabels {
    pub(super) half: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ErrorLabels {
    pub(super) half: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ContextLabels {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct DroppedLabels {
    pub(super) cause: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct CookieLabels {
    pub(super) name: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ServerLabels {
    pub(super) server: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct CallLabels {
    pub(super) server: String,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct DurationLabels {
    pub(super) server: String,
    pub(super) part: &'static str,
}
