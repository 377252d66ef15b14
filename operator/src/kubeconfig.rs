//! A kubeconfig to a client's configuration, with the proxy that kubectl would take: the cluster's `proxy-url`, else the one of
//! the environment.
//!
//! kube's own way from the one to the other is not taken. It reads `NO_PROXY` before anything else is known, fails where an entry
//! names no host, and compares the others with the address of the proxy itself.

use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;
use kube::Config;
use kube::config::{Cluster, Context, ExecAuthCluster, InClusterError, Kubeconfig, KubeconfigError};
use mcp_auth_oauth::NoProxy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

const PROXY_URL: &str = "the proxy-url of its cluster";
/// What kube can connect by.
const SCHEMES: [&str; 3] = ["http", "https", "socks5"];
const SOCKS_PORT: u16 = 1080;

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{}", without_content(.0))]
    Kubeconfig(#[from] KubeconfigError),
    #[error(
        "its certificate-authority holds no certificate in PEM: give the file that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// No API server is known.
#[derive(Debug, Error)]
pub enum FindError {
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(LoadError),
    #[error(
        "the ServiceAccount of this pod cannot be used: {in_cluster}: let the pod have its token \
         (automountServiceAccountToken), or name a kubeconfig with KUBECONFIG ({kubeconfig})"
    )]
    Pod {
        in_cluster: InClusterError,
        kubeconfig: LoadError,
    },
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
}

/// As kubectl finds it, with its proxy; in a pod by the pod's own ServiceAccount and directly, since HTTPS_PROXY is the way to
/// authorization servers there.
pub fn find() -> Result<Config, FindError> {
    let loaded = Kubeconfig::read().map_err(LoadError::from);
    match loaded.and_then(|kubeconfig| load(kubeconfig, None)) {
        Ok(config) => Ok(config),
        Err(error @ LoadError::Proxy(_)) => Err(FindError::Kubeconfig(error)),
        Err(kubeconfig) => Config::incluster().map_err(|in_cluster| FindError::new(in_cluster, kubeconfig)),
    }
}

impl FindError {
    fn new(in_cluster: InClusterError, kubeconfig: LoadError) -> Self {
        match in_cluster {
            // It is no pod.
            InClusterError::ReadEnvironmentVariable(_) => Self::Kubeconfig(kubeconfig),
            in_cluster => Self::Pod {
                in_cluster,
                kubeconfig,
            },
        }
    }
}

/// The context that is named, else the one in use.
pub fn load(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Config, LoadError> {
    let (context, mut cluster) = selected(&kubeconfig, context)?;
    // As kubectl: what is there and empty is not there.
    for field in [
        &mut cluster.proxy_url,
        &mut cluster.certificate_authority,
        &mut cluster.certificate_authority_data,
        &mut cluster.tls_server_name,
    ] {
        field.take_if(|value| value.is_empty());
    }
    let server = cluster
        .server
        .as_deref()
        .ok_or(KubeconfigError::MissingClusterUrl)?;
    let server: Uri = server.parse().map_err(KubeconfigError::ParseClusterUrl)?;
    let proxy = match &cluster.proxy_url {
        Some(stated) => Some(usable(stated, PROXY_URL)?),
        None => of_environment(&server, |name| std::env::var(name).ok())?,
    };
    // It reads the authority's file as well.
    let for_plugins = ExecAuthCluster::try_from(&cluster)?;
    let mut users = kubeconfig.auth_infos.into_iter();
    // As for kubectl, a user that is not there has no credentials.
    let user = users.find(|named| Some(&named.name) == context.user.as_ref());

    let mut config = Config::new(server);
    config.proxy_url = proxy;
    config.root_cert = match &for_plugins.certificate_authority_data {
        Some(pem) => Some(certificates(pem)?),
        None => None,
    };
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name = cluster.tls_server_name;
    config.auth_info = user.and_then(|named| named.auth_info).unwrap_or_default();
    if let Some(plugin) = &mut config.auth_info.exec
        && plugin.provide_cluster_info
    {
        plugin.cluster = Some(for_plugins);
    }
    if let Some(namespace) = context.namespace.filter(|namespace| !namespace.is_empty()) {
        config.default_namespace = namespace;
    }
    Ok(config)
}

fn selected(kubeconfig: &Kubeconfig, context: Option<&str>) -> Result<(Context, Cluster), KubeconfigError> {
    let current = kubeconfig
        .current_context
        .as_deref()
        .filter(|name| !name.is_empty());
    let name = context.or(current).ok_or(KubeconfigError::CurrentContextNotSet)?;
    let mut contexts = kubeconfig.contexts.iter();
    let context = contexts
        .find(|named| named.name == name)
        .and_then(|named| named.context.clone())
        .ok_or_else(|| KubeconfigError::LoadContext(name.to_owned()))?;
    let mut clusters = kubeconfig.clusters.iter();
    let cluster = clusters
        .find(|named| named.name == context.cluster)
        .and_then(|named| named.cluster.clone())
        .ok_or_else(|| KubeconfigError::LoadClusterOfContext(context.cluster.clone()))?;
    Ok((context, cluster))
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, LoadError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| LoadError::NoCertificate)?;
    match found.is_empty() {
        true => Err(LoadError::NoCertificate),
        false => Ok(found.iter().map(|found| found.to_vec()).collect()),
    }
}

/// As Go decides it, and with it kubectl: `NO_PROXY` counts, and nothing that is on this machine itself is reached by a proxy.
fn of_environment(
    server: &Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, ProxyError> {
    let stated = |name: &str| variable(name).filter(|value| !value.is_empty());
    let in_either_case = |name: &str| stated(name).or_else(|| stated(&name.to_ascii_lowercase()));
    let field = match server.scheme_str() {
        Some("http") => "HTTP_PROXY",
        _ => "HTTPS_PROXY",
    };
    let Some(proxy) = in_either_case(field).filter(|_| !is_loopback(server)) else {
        return Ok(None);
    };
    let exceptions = NoProxy::read(&in_either_case("NO_PROXY").unwrap_or_default());
    if exceptions.includes(server) {
        return Ok(None);
    }
    // Both are the same to Go, where the proxy resolves the name; kubectl takes the one of them in a kubeconfig.
    let proxy = match proxy.trim().strip_prefix("socks5h://") {
        Some(address) => format!("socks5://{address}"),
        None => proxy,
    };
    usable(&proxy, field).map(Some)
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
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
    if scheme != "socks5" {
        return Ok(uri);
    }
    if authority.as_str().contains('@') {
        return Err(ProxyError::SocksUsername { field });
    }
    // The client would take port 80 for it.
    let port = authority.port_u16().unwrap_or(SOCKS_PORT);
    let authority: Authority = format!("{}:{port}", authority.host())
        .parse()
        .map_err(|_| invalid())?;
    let with_port = Uri::builder()
        .scheme("socks5")
        .authority(authority)
        .path_and_query("/");
    with_port.build().map_err(|_| invalid())
}

/// What is wrong with a kubeconfig; of a line that is no YAML the place alone, since it may hold a token.
fn without_content(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => format!(
                "it is no YAML of a kubeconfig, at line {}, column {}",
                at.line(),
                at.column()
            ),
            None => "it is no YAML of a kubeconfig".to_owned(),
        },
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use base64::prelude::{BASE64_STANDARD, Engine};

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
        for (server, exceptions) in [
            ("https://10.1.2.3:6443", "*"),
            ("https://10.1.2.3:6443", "localhost,10.0.0.0/8,"),
            (
                "https://api.corp.example:6443",
                "*.corp.example,,/var/run/docker.sock",
            ),
            ("https://api.corp.example:6443", "api.corp.example:6443"),
        ] {
            let variables = [proxy, ("NO_PROXY", exceptions)];
            assert_eq!(chosen(server, &variables), Ok(None), "{exceptions}");
        }
        let variables = [("https_proxy", proxy.1), ("no_proxy", ".corp.example")];
        assert_eq!(chosen("https://other.example:6443", &variables), through);
        assert_eq!(chosen("https://api.corp.example:6443", &variables), Ok(None));
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
        for stated in ["socks5://proxy", "socks5h://proxy:1080"] {
            assert_eq!(
                chosen("https://api:6443", &[("HTTPS_PROXY", stated)]),
                Ok(Some("socks5://proxy:1080/".to_owned())),
                "{stated}"
            );
        }
        // What is not needed is not looked at.
        let unusable = [("HTTPS_PROXY", "::s3cret"), ("NO_PROXY", "10.0.0.0/8")];
        assert_eq!(chosen("https://10.1.2.3:6443", &unusable), Ok(None));
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

    fn loaded(cluster: &str) -> Result<Config, String> {
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: here
clusters: [{{name: other, cluster: {{server: 'https://other', proxy-url: 'http://other'}}}}, {{name: c, cluster: {{{cluster}}}}}]
users: [{{name: other, user: {{token: other}}}}, {{name: u, user: {{exec: {{command: plugin, provideClusterInfo: true}}}}}}]
contexts: [{{name: there, context: {{cluster: other, user: other}}}}, {{name: here, context: {{cluster: c, user: u, namespace: llm}}}}]
"
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        load(kubeconfig, None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_proxy_url_is_that_of_the_cluster_in_use_and_counts_on_this_machine_too() {
        let config = loaded("server: 'https://127.0.0.1:6443', proxy-url: 'socks5://127.0.0.1:1080'");
        assert_eq!(config.unwrap().proxy_url.unwrap(), "socks5://127.0.0.1:1080/");
        let config = loaded("server: 'https://127.0.0.1:6443'");
        assert_eq!(config.unwrap().proxy_url, None);
        let error = loaded("server: 'https://a', proxy-url: 'http://user:s3cret@a b'").map(drop);
        let error = error.unwrap_err();
        assert!(
            error.starts_with(PROXY_URL) && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn in_a_pod_it_is_told_why_its_service_account_cannot_be_used_and_elsewhere_why_the_kubeconfig_cannot() {
        let no_file = || io::Error::from(io::ErrorKind::NotFound);
        let kubeconfig = || KubeconfigError::ReadConfig(no_file(), "/home/.kube/config".into()).into();
        let told = FindError::new(InClusterError::ReadDefaultNamespace(no_file()), kubeconfig()).to_string();
        assert!(
            told.starts_with(
                "the ServiceAccount of this pod cannot be used: failed to read the default namespace"
            ),
            "{told}"
        );
        assert!(
            told.contains("automountServiceAccountToken") && told.contains(".kube/config"),
            "{told}"
        );
        let no_pod = InClusterError::ReadEnvironmentVariable(std::env::VarError::NotPresent);
        let told = FindError::new(no_pod, kubeconfig()).to_string();
        assert!(
            told.starts_with("the kubeconfig cannot be used: failed to read kubeconfig")
                && !told.contains("pod"),
            "{told}"
        );
    }

    #[test]
    fn of_a_kubeconfig_that_is_no_yaml_the_place_is_told_and_no_content() {
        let error = Kubeconfig::from_yaml("users: [{name: u, user: {token: s3cret}}").unwrap_err();
        let told = LoadError::from(error).to_string();
        assert!(
            told.starts_with("it is no YAML of a kubeconfig, at line 1") && !told.contains("s3cret"),
            "{told}"
        );
    }

    #[test]
    fn all_else_of_a_kubeconfig_is_what_kube_makes_of_it() {
        let authority = rcgen::generate_simple_self_signed(["api".to_owned()])
            .unwrap()
            .cert;
        let data = BASE64_STANDARD.encode(format!("a comment\n{}", authority.pem()));
        let config = loaded(&format!(
            "server: 'https://127.0.0.1:6443', certificate-authority-data: {data}, tls-server-name: api, disable-compression: true"
        ));
        let config = config.unwrap();
        assert_eq!(config.cluster_url, "https://127.0.0.1:6443/");
        assert_eq!(config.default_namespace, "llm");
        assert_eq!(config.root_cert, Some(vec![authority.der().to_vec()]));
        assert_eq!(config.tls_server_name.as_deref(), Some("api"));
        assert!(config.disable_compression && !config.accept_invalid_certs);
        let plugin = config.auth_info.exec.unwrap();
        let cluster = plugin.cluster.unwrap();
        assert_eq!(plugin.command.as_deref(), Some("plugin"));
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert!(cluster.certificate_authority_data.is_some());

        // As kubectl takes what is there and empty.
        let config = loaded(
            "server: 'https://a', insecure-skip-tls-verify: true, certificate-authority-data: '', proxy-url: ''",
        );
        let config = config.unwrap();
        assert!(config.accept_invalid_certs && config.root_cert.is_none() && config.proxy_url.is_none());
        let error = loaded("server: 'https://a', certificate-authority-data: czNjcmV0").map(drop);
        assert!(error.unwrap_err().contains("holds no certificate in PEM"));
    }
}
