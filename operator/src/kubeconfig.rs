//! A kubeconfig to a client's configuration, with the proxy that kubectl would take: the cluster's `proxy-url`, else the one of
//! the environment. kube reads both, and compares `NO_PROXY` with the address of the proxy itself, so what it decided is replaced.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

const PROXY_URL: &str = "the proxy-url of its cluster";
/// What kube can connect by.
const SCHEMES: [&str; 3] = ["http", "https", "socks5"];

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// A proxy that cannot be used. The value is not repeated: it may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum ProxyError {
    #[error(
        "{field} is not the URL of a proxy: write it as http://proxy.example.com:3128 or socks5://127.0.0.1:1080"
    )]
    InvalidUrl { field: &'static str },
    #[error(
        "{field} has the scheme {scheme}, and only http, https and socks5 are supported: write one of these before ://"
    )]
    UnsupportedScheme { field: &'static str, scheme: String },
    #[error(
        "{field} has a user name for a SOCKS5 proxy, which is not supported: take a proxy that asks for none, such as \
         `ssh -D`, or an http one"
    )]
    SocksUsername { field: &'static str },
    #[error(
        "NO_PROXY has an entry that is empty or names no host: write hosts, addresses and ranges with single commas between \
         them, such as 10.0.0.0/8,.corp.example.com"
    )]
    NoProxy,
}

/// The context in use, or the one that the options name.
pub async fn load(kubeconfig: Kubeconfig, options: &KubeConfigOptions) -> Result<Config, LoadError> {
    let stated = proxy_url(&kubeconfig, options).map(str::to_owned);
    let mut config = match Config::from_custom_kubeconfig(kubeconfig, options).await {
        Err(KubeconfigError::ParseNoProxy(_)) => return Err(ProxyError::NoProxy.into()),
        // Of either, and kube does not tell of which.
        Err(KubeconfigError::ParseProxyUrl(_)) => {
            let field = stated.map_or("HTTPS_PROXY", |_| PROXY_URL);
            return Err(ProxyError::InvalidUrl { field }.into());
        }
        loaded => loaded?,
    };
    let variable = |name: &str| {
        let stated = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        stated(name).or_else(|| stated(&name.to_ascii_lowercase()))
    };
    config.proxy_url = match stated {
        Some(stated) => Some(usable(&stated, PROXY_URL)?),
        None => of_environment(&config.cluster_url, variable)?,
    };
    Ok(config)
}

/// As Go decides it, and with it kubectl: `NO_PROXY` counts, and nothing that is on this machine itself is reached by a proxy.
fn of_environment(
    server: &Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, ProxyError> {
    let field = match server.scheme_str() {
        Some("http") => "HTTP_PROXY",
        _ => "HTTPS_PROXY",
    };
    let Some(proxy) = variable(field).filter(|_| !is_loopback(server)) else {
        return Ok(None);
    };
    let exceptions = variable("NO_PROXY").unwrap_or_default();
    let any_proxy = Matcher::builder()
        .all("http://proxy.invalid")
        .no(exceptions)
        .build();
    match any_proxy.intercept(server) {
        Some(_) => usable(&proxy, field).map(Some),
        None => Ok(None),
    }
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

fn usable(stated: &str, field: &'static str) -> Result<Uri, ProxyError> {
    let stated = stated.trim();
    // As most programs read these variables.
    let with_scheme = match stated.contains("://") {
        true => stated.to_owned(),
        false => format!("http://{stated}"),
    };
    let invalid = || ProxyError::InvalidUrl { field };
    let uri: Uri = with_scheme.parse().map_err(|_| invalid())?;
    let scheme = uri.scheme_str().ok_or_else(invalid)?;
    if !SCHEMES.contains(&scheme) {
        return Err(ProxyError::UnsupportedScheme {
            field,
            scheme: scheme.to_owned(),
        });
    }
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(invalid)?;
    if scheme == "socks5" && authority.as_str().contains('@') {
        return Err(ProxyError::SocksUsername { field });
    }
    Ok(uri)
}

/// The `proxy-url` of the cluster of the context in use.
fn proxy_url<'a>(kubeconfig: &'a Kubeconfig, options: &KubeConfigOptions) -> Option<&'a str> {
    let context = options.context.as_ref().or(kubeconfig.current_context.as_ref());
    let mut contexts = kubeconfig.contexts.iter();
    let context = contexts
        .find(|named| Some(&named.name) == context)?
        .context
        .as_ref()?;
    let mut clusters = kubeconfig.clusters.iter();
    let cluster = clusters.find(|named| named.name == context.cluster)?;
    let proxy = cluster.cluster.as_ref()?.proxy_url.as_deref()?;
    Some(proxy).filter(|proxy| !proxy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(server: &str, variables: &[(&str, &str)]) -> Result<Option<String>, ProxyError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let server = server.parse().unwrap();
        let proxy = of_environment(&server, variable)?;
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn the_environment_names_a_proxy_as_it_does_for_kubectl() {
        let proxy = ("HTTPS_PROXY", "http://user:s3cret@proxy:3128");
        let through = Ok(Some("http://user:s3cret@proxy:3128/".to_owned()));
        assert_eq!(chosen("https://api.corp.example:6443", &[proxy]), through);
        assert_eq!(chosen("https://10.1.2.3:6443", &[proxy]), through);
        for exceptions in [
            "corp.example",
            ".corp.example",
            "10.0.0.0/8,api.corp.example",
            "*",
        ] {
            let variables = [proxy, ("NO_PROXY", exceptions)];
            assert_eq!(
                chosen("https://api.corp.example:6443", &variables),
                Ok(None),
                "{exceptions}"
            );
        }
        // Of the proxy's own name, not of the API server's.
        let variables = [proxy, ("NO_PROXY", "proxy")];
        assert_eq!(chosen("https://api.corp.example:6443", &variables), through);
        for server in [
            "https://127.0.0.1:6443",
            "https://localhost:6443",
            "https://[::1]:6443",
        ] {
            assert_eq!(chosen(server, &[proxy]), Ok(None), "{server}");
        }
        assert_eq!(chosen("http://api.corp.example:8001", &[proxy]), Ok(None));
        assert_eq!(
            chosen("https://api:6443", &[("HTTPS_PROXY", "proxy:3128")]),
            Ok(Some("http://proxy:3128/".to_owned())),
            "no scheme is http"
        );
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_with_its_field_and_without_its_value() {
        for (stated, expected) in [
            (
                "socks5h://proxy:1080",
                "the scheme socks5h, and only http, https and socks5",
            ),
            ("ftp://user:s3cret@proxy", "the scheme ftp"),
            (
                "socks5://user:s3cret@proxy:1080",
                "a user name for a SOCKS5 proxy",
            ),
            ("http://s3cret proxy", "not the URL of a proxy"),
            ("http://", "not the URL of a proxy"),
            ("::s3cret", "not the URL of a proxy"),
        ] {
            let error = usable(stated, PROXY_URL).unwrap_err().to_string();
            assert!(error.starts_with(PROXY_URL), "{error}");
            assert!(error.contains(expected), "{stated}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        for stated in [
            "socks5://127.0.0.1:1080",
            "https://proxy",
            "http://user:s3cret@proxy:3128",
        ] {
            assert!(usable(stated, PROXY_URL).is_ok(), "{stated}");
        }
    }

    async fn loaded(cluster: &str) -> Result<Config, String> {
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: here
clusters: [{{name: other, cluster: {{server: 'https://other', proxy-url: 'http://other'}}}}, {{name: c, cluster: {{{cluster}}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
"
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let config = load(kubeconfig, &KubeConfigOptions::default()).await;
        config.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_proxy_url_is_that_of_the_cluster_in_use_and_counts_on_this_machine_too() {
        let config = loaded("server: 'https://127.0.0.1:6443', proxy-url: 'socks5://127.0.0.1:1080'").await;
        assert_eq!(config.unwrap().proxy_url.unwrap(), "socks5://127.0.0.1:1080");
        let config = loaded("server: 'https://127.0.0.1:6443'").await;
        assert_eq!(config.unwrap().proxy_url, None);
        let error = loaded("server: 'https://a', proxy-url: 'http://user:s3cret@a b'").await;
        let error = error.map(drop).unwrap_err();
        assert!(
            error.starts_with(PROXY_URL) && !error.contains("s3cret"),
            "{error}"
        );
    }
}
