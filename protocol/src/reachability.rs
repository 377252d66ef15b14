//! Reachability: what a sidecar has learned of an MCP server, from the calls that LiteLLM made and from connections
//! that it opened itself. Each state is a closed word, which is also the reason of the resource's condition
//! `ServerReachable`.

use serde::{Deserialize, Serialize};

/// What one sidecar has learned of one server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReachability {
    /// [`Route::server`](crate::sync::Route::server).
    pub server: String,
    pub state: Reachability,
    /// Since when, in Unix seconds.
    pub since: i64,
    /// What was seen, for people; never holds anything of a request or an answer's body.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Reachability {
    /// No connection to it has been tried.
    NotContacted,
    /// It takes connections, with a certificate that is trusted where the URL is https. No request has been
    /// answered yet.
    Connected,
    /// It answers requests.
    Answered,
    /// The host name does not resolve.
    NameNotResolved,
    /// No address takes a connection: nothing listens there, or a Service has no pods.
    ConnectionFailed,
    /// A connection was not opened in time, as where a NetworkPolicy or firewall drops it.
    ConnectionTimedOut,
    /// The authority of its certificate is not trusted.
    CertificateNotTrusted,
    /// Its certificate is for another host name.
    CertificateForOtherHost,
    /// Its certificate is not valid now.
    CertificateExpired,
    /// The TLS handshake failed for another reason.
    TlsFailed,
    /// No connection to the egress proxy could be opened.
    ProxyUnreachable,
    /// The egress proxy opens no tunnel to it.
    ProxyRefused,
    /// It takes connections and answers no request.
    NoAnswer,
    /// It, or what stands before it, answers 502, 503 or 504.
    Unavailable,
    /// It answers 421: the host name leads to another server (RFC 9110 section 15.5.20).
    HostNotServed,
    /// It answers 404 to a request that begins a session: the path is wrong.
    PathNotFound,
}

impl Reachability {
    pub const ALL: [Self; 16] = [
        Self::NotContacted,
        Self::Connected,
        Self::Answered,
        Self::NameNotResolved,
        Self::ConnectionFailed,
        Self::ConnectionTimedOut,
        Self::CertificateNotTrusted,
        Self::CertificateForOtherHost,
        Self::CertificateExpired,
        Self::TlsFailed,
        Self::ProxyUnreachable,
        Self::ProxyRefused,
        Self::NoAnswer,
        Self::Unavailable,
        Self::HostNotServed,
        Self::PathNotFound,
    ];

    /// CamelCase, as on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotContacted => "NotContacted",
            Self::Connected => "Connected",
            Self::Answered => "Answered",
            Self::NameNotResolved => "NameNotResolved",
            Self::ConnectionFailed => "ConnectionFailed",
            Self::ConnectionTimedOut => "ConnectionTimedOut",
            Self::CertificateNotTrusted => "CertificateNotTrusted",
            Self::CertificateForOtherHost => "CertificateForOtherHost",
            Self::CertificateExpired => "CertificateExpired",
            Self::TlsFailed => "TlsFailed",
            Self::ProxyUnreachable => "ProxyUnreachable",
            Self::ProxyRefused => "ProxyRefused",
            Self::NoAnswer => "NoAnswer",
            Self::Unavailable => "Unavailable",
            Self::HostNotServed => "HostNotServed",
            Self::PathNotFound => "PathNotFound",
        }
    }

    /// Whether calls to the server succeed: unknown before the first contact.
    pub fn is_reachable(self) -> Option<bool> {
        match self {
            Self::NotContacted => None,
            Self::Connected | Self::Answered => Some(true),
            _ => Some(false),
        }
    }

    /// Whether a connection alone tells that it is over. What only an answer shows is over with another answer.
    pub fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::NameNotResolved
                | Self::ConnectionFailed
                | Self::ConnectionTimedOut
                | Self::CertificateNotTrusted
                | Self::CertificateForOtherHost
                | Self::CertificateExpired
                | Self::TlsFailed
                | Self::ProxyUnreachable
                | Self::ProxyRefused
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_same_word_on_the_wire_and_in_the_status() {
        for state in Reachability::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.reason());
        }
    }
}
