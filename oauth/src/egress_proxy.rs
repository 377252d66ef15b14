//! Egress proxy: which requests go through an HTTP proxy, and how the client authenticates there. Requests by TLS go
//! through a tunnel (CONNECT), so that the proxy sees host and port and nothing else.
//!
//! Which hosts are reached without the proxy is decided by the rules of `NO_PROXY` ([`NoProxy`]).

use std::fmt;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::no_proxy::NoProxy;

/// Schemes of requests.
const SCHEMES: [&str; 2] = ["https", "http"];

/// Any host: the matchers that read a proxy's URL have no exceptions.
const ANY_HOST: &str = "egress-proxy.invalid";

/// The proxies of a client, and the hosts that are reached without them. Cheap to clone.
#[derive(Clone)]
pub struct EgressProxy(Arc<Proxies>);

struct Proxies {
    exceptions: NoProxy,
    /// As the exceptions were stated.
    stated_exceptions: String,
    servers: Vec<ProxyServer>,
    /// Whether a resource names it, whose author is not trusted as far as who runs this program.
    of_resource: bool,
}

/// The proxy for requests of one scheme.
struct ProxyServer {
    scheme: &'static str,
    address: Uri,
    authorization: Option<HeaderValue>,
}

/// User name and password at a proxy.
pub struct ProxyCredentials {
    pub username: String,
    pub password: SecretString,
}

/// The proxy that requests for one URL go through. No `Debug`: it holds the password.
pub struct UsedProxy {
    pub url: String,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<SecretString>,
}

/// A proxy that cannot be used. The value is not repeated: it may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EgressProxyError {
    #[error("{field} is not the URL of a proxy: write it as http://proxy.example.com:3128")]
    InvalidUrl { field: &'static str },
    #[error("{field} has the scheme {scheme}, and only http and https proxies are supported")]
    UnsupportedScheme { field: &'static str, scheme: String },
    #[error("the user name for the proxy holds a colon, which Basic authentication cannot carry (RFC 7617)")]
    ColonInUsername,
}

impl EgressProxy {
    /// The proxies of the environment variables `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. `None`: there are none.
    pub fn from_environment(
        https: Option<&str>,
        http: Option<&str>,
        no_proxy: Option<&str>,
    ) -> Result<Option<Self>, EgressProxyError> {
        let stated = |value: Option<&str>| {
            value
                .map(str::trim)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let (https, http) = (stated(https), stated(http));
        if https.is_none() && http.is_none() {
            return Ok(None);
        }
        let builder = || {
            Matcher::builder()
                .https(https.as_deref().unwrap_or_default())
                .http(http.as_deref().unwrap_or_default())
        };
        let servers = [("https", "HTTPS_PROXY", &https), ("http", "HTTP_PROXY", &http)]
            .into_iter()
            .filter(|(_, _, value)| value.is_some())
            .map(|(scheme, field, _)| ProxyServer::read(&builder().build(), scheme, field))
            .collect::<Result<_, _>>()?;
        let stated_exceptions = no_proxy.unwrap_or_default().to_owned();
        Ok(Some(Self(Arc::new(Proxies {
            exceptions: NoProxy::read(&stated_exceptions),
            stated_exceptions,
            servers,
            of_resource: false,
        }))))
    }

    /// The proxy that a resource names, for all its requests.
    pub fn new(
        url: &str,
        credentials: Option<&ProxyCredentials>,
        no_proxy: &[String],
    ) -> Result<Self, EgressProxyError> {
        let authorization = credentials.map(ProxyCredentials::authorization).transpose()?;
        let field = "egressProxy.url";
        let servers = SCHEMES
            .into_iter()
            .map(|scheme| {
                let server = ProxyServer::read(&Matcher::builder().all(url).build(), scheme, field)?;
                Ok(ProxyServer {
                    authorization: authorization.clone().or(server.authorization),
                    ..server
                })
            })
            .collect::<Result<_, _>>()?;
        let stated_exceptions = no_proxy.join(",");
        Ok(Self(Arc::new(Proxies {
            exceptions: NoProxy::read(&stated_exceptions),
            stated_exceptions,
            servers,
            of_resource: true,
        })))
    }

    /// Whether a request for this URL goes through a proxy.
    pub(crate) fn applies_to(&self, url: &Url) -> bool {
        let has_proxy = self.0.servers.iter().any(|server| server.scheme == url.scheme());
        let uri = url.as_str().parse::<Uri>();
        has_proxy && uri.is_ok_and(|uri| !self.0.exceptions.includes(&uri))
    }

    /// The proxy that requests for this URL go through; none where they do not.
    pub fn used_for(&self, url: &str) -> Option<UsedProxy> {
        let url = Url::parse(url).ok().filter(|url| self.applies_to(url))?;
        let mut servers = self.0.servers.iter();
        let server = servers.find(|server| server.scheme == url.scheme())?;
        let authorization = server.authorization.as_ref();
        Some(UsedProxy {
            url: server.address.to_string(),
            authorization: authorization
                .and_then(|value| value.to_str().ok())
                .map(SecretString::from),
        })
    }

    /// All that makes it another proxy, the password included.
    pub(crate) fn identifying_parts(&self) -> impl Iterator<Item = String> {
        let servers = self.0.servers.iter().flat_map(|server| {
            let authorization = server.authorization.as_ref();
            let authorization = authorization.and_then(|value| value.to_str().ok());
            [
                server.scheme.to_owned(),
                server.address.to_string(),
                authorization.unwrap_or_default().to_owned(),
            ]
        });
        servers.chain([self.0.stated_exceptions.clone()])
    }

    pub(crate) fn is_of_resource(&self) -> bool {
        self.0.of_resource
    }

    /// The hosts of the proxies themselves.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0.servers.iter().filter_map(|server| server.address.host())
    }

    /// What is shown to the proxies and to nobody else.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let servers = self.0.servers.iter();
        let shown = servers.filter_map(|server| server.authorization.as_ref()?.to_str().ok());
        shown.filter_map(|value| value.strip_prefix("Basic "))
    }

    /// The same in the terms of the HTTP client.
    pub(crate) fn to_reqwest(&self) -> Vec<reqwest::Proxy> {
        let servers = self.0.servers.iter();
        let proxies = servers.map(|server| {
            let (proxies, scheme) = (self.clone(), server.scheme);
            let address = server.address.to_string();
            let proxy = reqwest::Proxy::custom(move |url| {
                (url.scheme() == scheme && proxies.applies_to(url)).then(|| address.clone())
            });
            match &server.authorization {
                Some(authorization) => proxy.custom_http_auth(authorization.clone()),
                None => proxy,
            }
        });
        proxies.collect()
    }
}

impl ProxyServer {
    fn read(matcher: &Matcher, scheme: &'static str, field: &'static str) -> Result<Self, EgressProxyError> {
        let invalid = EgressProxyError::InvalidUrl { field };
        let sample: Uri = format!("{scheme}://{ANY_HOST}/")
            .parse()
            .map_err(|_| invalid.clone())?;
        let intercept = matcher.intercept(&sample).ok_or(invalid.clone())?;
        let address = intercept.uri().clone();
        match address.scheme_str() {
            Some("http" | "https") => {}
            other => {
                let scheme = other.unwrap_or_default().to_owned();
                return Err(EgressProxyError::UnsupportedScheme { field, scheme });
            }
        }
        if address.host().is_none_or(str::is_empty) {
            return Err(invalid);
        }
        Ok(Self {
            scheme,
            address,
            authorization: intercept.basic_auth().cloned(),
        })
    }
}

impl ProxyCredentials {
    /// RFC 7617 section 2.
    fn authorization(&self) -> Result<HeaderValue, EgressProxyError> {
        if self.username.contains(':') {
            return Err(EgressProxyError::ColonInUsername);
        }
        let both = format!("{}:{}", self.username, self.password.expose_secret());
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(both)))
            .expect("base64 is a header value");
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Addresses without credentials.
impl fmt::Debug for EgressProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.0.servers.iter();
        formatter
            .debug_list()
            .entries(servers.map(|server| (server.scheme, &server.address)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applies(proxy: &EgressProxy, url: &str) -> bool {
        proxy.applies_to(&Url::parse(url).unwrap())
    }

    #[test]
    fn without_variables_there_is_no_proxy() {
        for (https, http) in [(None, None), (Some(""), Some(" "))] {
            let none = EgressProxy::from_environment(https, http, Some("*")).unwrap();
            assert!(none.is_none());
        }
    }

    #[test]
    fn each_scheme_has_a_proxy_of_its_own_and_exceptions_are_reached_directly() {
        let no_proxy = Some("localhost, .cluster.local,10.0.0.0/8,auth.example.com");
        let proxy = EgressProxy::from_environment(Some("http://proxy:3128"), None, no_proxy)
            .unwrap()
            .unwrap();
        assert!(applies(&proxy, "https://login.example.com/token"));
        for direct in [
            "http://login.example.com/token",
            "https://localhost/",
            "https://keycloak.iam.svc.cluster.local/",
            "https://10.1.2.3/",
            "https://auth.example.com/",
            "https://eu.auth.example.com:8443/",
        ] {
            assert!(!applies(&proxy, direct), "{direct}");
        }
        assert_eq!(proxy.hosts().collect::<Vec<_>>(), ["proxy"]);
    }

    #[test]
    fn a_star_reaches_everything_directly() {
        let proxy = EgressProxy::new("http://proxy:3128", None, &["*".into()]).unwrap();
        for direct in [
            "https://login.example.com/token",
            "https://10.1.2.3/token",
            "https://[fd00::1]/token",
        ] {
            assert!(!applies(&proxy, direct), "{direct}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_repeated() {
        for (value, expected) in [
            ("http://", "is not the URL"),
            ("http://user:s3cret@", "is not the URL"),
            ("ftp://s3cret@proxy", "is not the URL"),
            ("socks5://s3cret@proxy:1080", "the scheme socks5"),
        ] {
            let error = EgressProxy::from_environment(Some(value), None, None).unwrap_err();
            let message = error.to_string();
            assert!(
                message.starts_with("HTTPS_PROXY ") && message.contains(expected),
                "{message}"
            );
            assert!(!message.contains("s3cret"), "{message}");
            let error = EgressProxy::new(value, None, &[]).unwrap_err();
            assert!(error.to_string().starts_with("egressProxy.url "), "{error}");
        }
        let credentials = ProxyCredentials {
            username: "a:b".into(),
            password: "s3cret".into(),
        };
        let error = EgressProxy::new("http://proxy:3128", Some(&credentials), &[]).unwrap_err();
        assert_eq!(error, EgressProxyError::ColonInUsername);
    }

    #[test]
    fn debug_output_never_holds_credentials() {
        let credentials = ProxyCredentials {
            username: "user".into(),
            password: "s3cret".into(),
        };
        let stated = EgressProxy::new("http://proxy:3128", Some(&credentials), &[]).unwrap();
        let inherited = EgressProxy::from_environment(Some("http://user:s3cret@proxy:3128"), None, None);
        for proxy in [stated, inherited.unwrap().unwrap()] {
            let [shown, ..] = proxy.secrets().collect::<Vec<_>>()[..] else {
                panic!("nothing is shown to the proxy");
            };
            assert_eq!(BASE64_STANDARD.decode(shown).unwrap(), b"user:s3cret");
            let debug = format!("{proxy:?}");
            assert!(!debug.contains("s3cret") && !debug.contains(shown), "{debug}");
        }
    }
}
