//! One request to a collector, over a connection that is kept.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::otlp::OtlpEndpoint;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::time::timeout;

use super::headers::OtlpHeaders;
use super::queue::Signal;
use crate::http::connect::{ConnectError, Way, connect};
use crate::http::resolver::Resolver;
use crate::http::tls::Tls;
use crate::http::tls::{TlsConfigError, TlsConfigs};
use crate::http::transport::Peer;

/// From the request to the end of the answer, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
const PRODUCT: &str = concat!("mcp-auth/", env!("CARGO_PKG_VERSION"));

/// Why a collector cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the collector's certificates cannot be verified: {0}")]
    Tls(#[from] TlsConfigError),
    #[error("the collector's host is neither a name nor an address")]
    Host,
}

/// Why records were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the collector cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the connection to the collector ended before an answer")]
    Http(#[from] hyper::Error),
    #[error("the collector did not answer within {} seconds", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    #[error("the collector answers {status}{}", hint(*.status))]
    Status {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ": the headers by which it knows the sender are missing or not good enough"
        }
        StatusCode::NOT_FOUND => ": it has no receiver for OTLP over HTTP there",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ": it takes no OTLP in JSON",
        _ => "",
    }
}

impl ExportError {
    /// Whether the same request may be taken later (OTLP 1.x, "Failures").
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Connect(_) | Self::Http(_) | Self::Timeout => true,
        }
    }

    /// How long the collector wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

pub struct Client {
    endpoint: OtlpEndpoint,
    way: Way,
    tls: Option<Tls>,
    headers: HeaderMap,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// `ca`: PEM certificates that are trusted besides the platform's.
    pub fn new(endpoint: OtlpEndpoint, headers: &OtlpHeaders, ca: Option<&str>) -> Result<Self, ClientError> {
        let tls = match endpoint.is_tls() {
            true => {
                let config = TlsConfigs::default().config(ca, None)?;
                let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|_| ClientError::Host)?;
                Some(Tls::new(config, name))
            }
            false => None,
        };
        let host = HeaderValue::try_from(endpoint.authority().as_str()).map_err(|_| ClientError::Host)?;
        let mut all = HeaderMap::new();
        all.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        for (name, value) in headers.iter() {
            all.insert(name.clone(), value.clone());
        }
        all.insert(HOST, host);
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self {
            way: Peer::Name {
                resolver: Resolver::new(endpoint.host(), endpoint.port()),
                scope: None,
            }
            .into(),
            endpoint,
            tls,
            headers: all,
            connection: None,
        })
    }

    pub fn endpoint(&self) -> &OtlpEndpoint {
        &self.endpoint
    }

    /// How many of the records the collector says it has not taken.
    pub async fn send(&mut self, signal: Signal, body: Bytes) -> Result<u64, ExportError> {
        let mut connection = self.connection.take();
        let answer = timeout(REQUEST_TIMEOUT, self.exchange(&mut connection, signal, body)).await;
        let answer = answer.unwrap_or(Err(ExportError::Timeout));
        // After an error nobody knows what the connection would answer next.
        if !matches!(
            answer,
            Err(ExportError::Connect(_) | ExportError::Http(_) | ExportError::Timeout)
        ) {
            self.connection = connection;
        }
        answer
    }

    async fn exchange(
        &self,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        signal: Signal,
        body: Bytes,
    ) -> Result<u64, ExportError> {
        let is_open = match connection {
            Some(kept) => kept.ready().await.is_ok(),
            None => false,
        };
        if !is_open {
            *connection = None;
        }
        let sender = match connection {
            Some(kept) => kept,
            None => connection.insert(self.connect().await?),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let path = self.endpoint.path(signal.path());
        // A path of an endpoint that was parsed, with a constant behind it.
        *request.uri_mut() = PathAndQuery::try_from(path)
            .unwrap_or_else(|_| PathAndQuery::from_static("/"))
            .into();
        *request.headers_mut() = self.headers.clone();
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        match head.status.is_success() {
            // What cannot be read of an answer does not undo it.
            true => Ok(body.map_or(0, |body| rejected(signal, &body.to_bytes()))),
            false => Err(ExportError::Status {
                status: head.status,
                retry_after: retry_after(&head.headers),
            }),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ExportError> {
        let io = connect(&self.way, self.tls.as_ref(), false).await?;
        let (sender, connection) = handshake(TokioIo::new(io)).await?;
        tokio::spawn(async move {
            // What ends it is told to whoever sends next.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// In whole seconds; of dates no collector makes use.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Of a partial success: the number of records that were rejected, which is text where the JSON mapping is followed.
fn rejected(signal: Signal, answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let number = &answer["partialSuccess"][match signal {
        Signal::Logs => "rejectedLogRecords",
        Signal::Spans => "rejectedSpans",
    }];
    number
        .as_u64()
        .or_else(|| number.as_str()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_rejects_is_a_number_or_its_text() {
        let logs = |answer: &str| rejected(Signal::Logs, answer.as_bytes());
        assert_eq!(logs(r#"{"partialSuccess":{"rejectedLogRecords":"3"}}"#), 3);
        assert_eq!(logs(r#"{"partialSuccess":{"rejectedLogRecords":3}}"#), 3);
        let spans = r#"{"partialSuccess":{"rejectedSpans":"2"}}"#;
        assert_eq!((logs(spans), rejected(Signal::Spans, spans.as_bytes())), (0, 2));
        for none in [
            "{}",
            "",
            "\x01\x02",
            r#"{"partialSuccess":{"rejectedLogRecords":"-1"}}"#,
        ] {
            assert_eq!(logs(none), 0, "{none}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status| ExportError::Status {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
        };
        assert!(
            [429, 502, 503, 504]
                .map(status)
                .iter()
                .all(ExportError::is_retryable)
        );
        assert!(
            ![301, 400, 401, 403, 404, 413, 500]
                .map(status)
                .iter()
                .any(ExportError::is_retryable)
        );
        assert!(ExportError::Timeout.is_retryable());
        assert!(status(401).to_string().contains("headers"));
    }
}
