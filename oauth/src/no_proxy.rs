//! `NO_PROXY`, and lists like it, to whether a server is reached without the proxy. By the rules of Go
//! (golang.org/x/net/http/httpproxy), which kubectl has and most programs around Kubernetes: an entry may have a port, and one
//! that is empty or names no host is skipped. hyper-util's rules are curl's, where neither a port nor `*.` ever counts.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;
use url::Host;

/// The servers that are reached without the proxy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NoProxy(Vec<Exception>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Exception {
    All,
    Range(IpNet),
    Address {
        address: IpAddr,
        port: Port,
    },
    Domain {
        /// With the dot before it.
        suffix: String,
        includes_itself: bool,
        port: Port,
    },
}

/// As it is written; empty: any.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Port(String);

impl NoProxy {
    /// From a list with commas in between.
    pub fn read(list: &str) -> Self {
        let entries = list.split(',').map(|entry| entry.trim().to_lowercase());
        Self(entries.filter_map(|entry| Exception::read(&entry)).collect())
    }

    /// Whether this server is reached directly. Its port counts too, or that of its scheme.
    pub fn includes(&self, server: &Uri) -> bool {
        let host = server.host().unwrap_or_default().to_lowercase();
        let port = server.port_u16().unwrap_or(match server.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let address = address(host.trim_start_matches('[').trim_end_matches(']'));
        let mut exceptions = self.0.iter();
        exceptions.any(|exception| exception.matches(&host, address, port))
    }
}

impl Exception {
    fn read(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let Ok(range) = entry.parse() {
            return Some(Self::Range(range));
        }
        let (host, port) = split_port(entry);
        let port = Port(port.to_owned());
        if let Some(address) = address(host) {
            return Some(Self::Address { address, port });
        }
        let host = host
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        let (domain, includes_itself) = match host.strip_prefix('.') {
            Some(domain) => (domain, false),
            None => (host, true),
        };
        Some(Self::Domain {
            suffix: format!(".{}", in_ascii(domain)),
            includes_itself,
            port,
        })
    }

    fn matches(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match (self, address) {
            (Self::All, _) => true,
            (Self::Range(range), Some(address)) => range.contains(&address),
            (
                Self::Address {
                    address: stated,
                    port: of_entry,
                },
                Some(address),
            ) => *stated == address && of_entry.matches(port),
            (
                Self::Domain {
                    suffix,
                    includes_itself,
                    port: of_entry,
                },
                None,
            ) => {
                let is_itself = *includes_itself && host == &suffix[1..];
                (is_itself || host.ends_with(suffix)) && of_entry.matches(port)
            }
            _ => false,
        }
    }
}

impl Port {
    fn matches(&self, port: u16) -> bool {
        self.0.is_empty() || self.0 == port.to_string()
    }
}

/// `host:port` and `[address]:port`. An IPv6 address without brackets has more than one colon, and no port.
fn split_port(entry: &str) -> (&str, &str) {
    let Some((host, port)) = entry.rsplit_once(':') else {
        return (entry, "");
    };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => (address, port),
        None if host.contains(':') => (entry, ""),
        None => (host, port),
    }
}

/// An IPv4 address is the same as the IPv6 address that it is mapped to.
fn address(host: &str) -> Option<IpAddr> {
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn in_ascii(domain: &str) -> String {
    match Host::parse(domain) {
        Ok(Host::Domain(ascii)) if !domain.is_ascii() => ascii,
        _ => domain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "https://api.corp.example:6443";
    const DOMAIN: &str = "https://corp.example";
    const IPV4: &str = "https://10.1.2.3:6443";
    const IPV6: &str = "https://[fd00::1]:6443";
    const PUNYCODE: &str = "https://xn--bcher-kva.example";
    const OTHER: &str = "https://notcorp.example";
    const SERVERS: [&str; 6] = [HOST, DOMAIN, IPV4, IPV6, PUNYCODE, OTHER];

    /// Lists, and what `ProxyFunc` of golang.org/x/net/http/httpproxy 0.62.0 was seen to reach directly of [`SERVERS`].
    const DECISIONS: &[(&str, &[&str])] = &[
        ("", &[]),
        ("*", &SERVERS),
        ("a,*", &SERVERS),
        ("corp.example", &[HOST, DOMAIN]),
        (".corp.example", &[HOST]),
        ("*.corp.example", &[HOST]),
        ("*corp.example", &[]),
        ("api.corp.example:6443", &[HOST]),
        ("api.corp.example:443", &[]),
        ("corp.example:", &[HOST, DOMAIN]),
        ("CORP.example , b", &[HOST, DOMAIN]),
        ("localhost,10.0.0.0/8,", &[IPV4]),
        ("a,,b", &[]),
        ("/var/run/docker.sock,10.1.2.3", &[IPV4]),
        ("10.1.2.3:6443", &[IPV4]),
        ("10.1.2.3:1", &[]),
        ("10.1.2.0/24", &[IPV4]),
        ("10.1.2.9/24", &[IPV4]),
        ("fd00::1", &[IPV6]),
        ("[fd00::1]:6443", &[IPV6]),
        ("[fd00::1]", &[]),
        ("fd00::/8", &[IPV6]),
        (":6443", &[]),
        ("a b", &[]),
        ("api.corp.example b", &[]),
        ("bücher.example", &[PUNYCODE]),
        ("::ffff:10.1.2.3", &[IPV4]),
        ("<local>", &[]),
        ("*.", &[]),
        (".", &[]),
        ("orp.example", &[]),
    ];

    #[test]
    fn a_list_means_what_it_means_to_kubectl() {
        for (list, expected) in DECISIONS {
            let exceptions = NoProxy::read(list);
            let direct = SERVERS
                .iter()
                .filter(|server| exceptions.includes(&server.parse().unwrap()));
            assert_eq!(direct.copied().collect::<Vec<_>>(), *expected, "{list}");
        }
    }

    #[test]
    fn the_port_of_a_server_that_states_none_is_that_of_its_scheme() {
        let exceptions = NoProxy::read("a.example:80,b.example:443");
        for (server, direct) in [
            ("http://a.example", true),
            ("https://a.example", false),
            ("https://b.example", true),
            ("http://b.example", false),
        ] {
            assert_eq!(exceptions.includes(&server.parse().unwrap()), direct, "{server}");
        }
    }
}
