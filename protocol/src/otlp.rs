//! Where an OpenTelemetry collector takes OTLP over HTTP: what the operator checks before it hands it to sidecars, and what
//! these call.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};

/// The signals' paths, which are appended to the endpoint's (OTLP 1.x, "OTLP/HTTP Request").
pub const LOGS_PATH: &str = "/v1/logs";
pub const TRACES_PATH: &str = "/v1/traces";

/// `http://HOST:PORT` or `https://HOST:PORT`, with a path where the collector stands behind one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OtlpEndpoint {
    is_tls: bool,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
}

/// Why a text is no [`OtlpEndpoint`]. It does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtlpEndpointError {
    #[error("must be http://HOST:PORT or https://HOST:PORT, such as http://collector.monitoring:4318")]
    NotHttp,
    #[error("holds a user or a password: state credentials as headers")]
    Credentials,
    #[error("holds a query: state the address up to the path alone")]
    Query,
    #[error("ends in {path}, which is appended by itself: leave it out")]
    SignalPath { path: &'static str },
    #[error("states port 4317, which takes gRPC: OTLP over HTTP is port 4318 of most collectors")]
    GrpcPort,
}

/// The port that collectors take OTLP over gRPC on.
const GRPC_PORT: u16 = 4317;

impl OtlpEndpoint {
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Value of `Host`.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    pub fn port(&self) -> u16 {
        let default = if self.is_tls { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// Of a signal's requests: the endpoint's own path, and the signal's.
    pub fn path(&self, signal: &str) -> String {
        format!("{}{signal}", self.path)
    }
}

impl FromStr for OtlpEndpoint {
    type Err = OtlpEndpointError;

    fn from_str(text: &str) -> Result<Self, OtlpEndpointError> {
        let uri: Uri = text.parse().map_err(|_| OtlpEndpointError::NotHttp)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(OtlpEndpointError::NotHttp),
        };
        let authority = uri.authority().ok_or(OtlpEndpointError::NotHttp)?;
        if authority.as_str().contains('@') {
            return Err(OtlpEndpointError::Credentials);
        }
        // A port that is no number, or too large a one, is none.
        let states_port = authority.as_str().len() > authority.host().len();
        if authority.host().is_empty() || states_port && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(OtlpEndpointError::NotHttp);
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(OtlpEndpointError::Query);
        }
        let path = uri.path().trim_end_matches('/');
        if let Some(path) = [LOGS_PATH, TRACES_PATH]
            .into_iter()
            .find(|signal| path.ends_with(signal))
        {
            return Err(OtlpEndpointError::SignalPath { path });
        }
        if authority.port_u16() == Some(GRPC_PORT) {
            return Err(OtlpEndpointError::GrpcPort);
        }
        Ok(Self {
            is_tls,
            authority: authority.clone(),
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_found_by_scheme_host_port_and_path() {
        let endpoint = |text: &str| text.parse::<OtlpEndpoint>().unwrap();
        let plain = endpoint("http://collector.monitoring:4318");
        assert_eq!(
            (plain.is_tls(), plain.host(), plain.port()),
            (false, "collector.monitoring", 4318)
        );
        assert_eq!(plain.path(LOGS_PATH), "/v1/logs");
        let hosted = endpoint("https://otlp.example.com/otlp/");
        assert_eq!((hosted.is_tls(), hosted.port()), (true, 443));
        assert_eq!(hosted.path(TRACES_PATH), "/otlp/v1/traces");
        assert_eq!(hosted.to_string(), "https://otlp.example.com/otlp");
        assert_eq!(endpoint("http://[::1]:4318").host(), "::1");
    }

    #[test]
    fn what_is_wrong_is_told_without_repeating_it() {
        use OtlpEndpointError::{Credentials, GrpcPort, NotHttp, Query, SignalPath};
        for (text, expected) in [
            ("", NotHttp),
            ("collector:4318", NotHttp),
            ("grpc://collector:4317", NotHttp),
            ("http://", NotHttp),
            ("http://collector:65536", NotHttp),
            ("http://collector:", NotHttp),
            ("https://ada:s3cret@collector:4318", Credentials),
            ("http://collector:4318/?token=s3cret", Query),
            ("http://collector:4318/#s3cret", Query),
            ("http://collector:4318/v1/logs", SignalPath { path: LOGS_PATH }),
            ("http://collector:4317", GrpcPort),
        ] {
            let error = text.parse::<OtlpEndpoint>().unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
