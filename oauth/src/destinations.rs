//! Destination policy: what an administrator allows for all resources, besides what each of them says: to which hosts
//! requests may go, at which addresses these may be, and whether plain http is allowed. It only takes away.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use url::{Host, Url};

use crate::ssrf::{AddressScope, ForbiddenAddressError, check_address, normalize_host};

/// Cheap to clone. The default allows everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Destinations {
    /// None: every host.
    pub hosts: Arc<[HostPattern]>,
    pub addresses: AllowedAddresses,
    pub forbid_http: bool,
}

/// At which addresses hosts may be. Link-local addresses and those of clouds' metadata services are never connected to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AllowedAddresses {
    /// Private ones too, and this machine's.
    #[default]
    Any,
    /// Private ones too, but not this machine's.
    NotLoopback,
    /// Only those that everyone can reach.
    Public,
}

/// A host, or all hosts of a domain: `auth.example.com`, `*.example.com`, `10.0.0.7`, `[fd00::7]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPattern {
    /// In lower case, without the `*`.
    host: String,
    /// Whether the hosts below it are meant.
    below: bool,
}

/// A text that is no pattern of hosts.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "a text of {length} characters is no host: write a name such as auth.example.com, *.example.com for all hosts below \
     it, or an address, without scheme, port and path"
)]
pub struct HostPatternError {
    length: usize,
}

/// Why a URL may not be requested.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum DestinationError {
    #[error("the host {host} is not among the hosts that the administrator of mcp-auth allows")]
    Host { host: String },
    #[error("plain http is forbidden by the administrator of mcp-auth")]
    PlainHttp,
    #[error("the administrator of mcp-auth forbids {0} addresses")]
    Address(&'static str),
    /// Whatever the administrator allows.
    #[error("its address is {0}")]
    NeverAllowed(ForbiddenAddressError),
}

impl Destinations {
    /// Judges a URL that a resource states, also by the addresses that no policy allows. A text that is no URL passes: it is refused where it is used.
    pub fn check_text(&self, url: &str) -> Result<(), DestinationError> {
        let Ok(url) = url.parse() else {
            return Ok(());
        };
        self.check(&url)?;
        let judged = stated_address(&url).map_or(Ok(()), |address| check_address(address, AddressScope::Any));
        judged.map_err(DestinationError::NeverAllowed)
    }

    /// The same of the URL of an MCP server, which sidecars resolve and connect to within [`Self::addresses_of_sidecar`]. Where only
    /// public addresses are allowed, a name that the cluster's own DNS answers is a private one, unless it is listed. A sidecar's
    /// own machine is LiteLLM's pod, where an MCP server may run beside it: a URL that states so is as good as any private one.
    pub fn check_text_of_sidecar(&self, url: &str) -> Result<(), DestinationError> {
        let of_stated = match self.addresses {
            AllowedAddresses::NotLoopback => AllowedAddresses::Any,
            addresses => addresses,
        };
        let judged = Self {
            addresses: of_stated,
            ..self.clone()
        };
        judged.check_text(url)?;
        let is_judged = self.addresses == AllowedAddresses::Public && self.hosts.is_empty();
        let url: Option<Url> = url.parse().ok();
        let host = url.as_ref().and_then(Url::domain).map(normalize_host);
        match host.filter(|_| is_judged) {
            Some(host) if is_name_of_cluster(&host) => Err(DestinationError::Address("private")),
            _ => Ok(()),
        }
    }

    /// At which addresses the host of a URL that [`Self::check_text_of_sidecar`] allows may be: a host that is listed may be private, and
    /// one that the URL says to be loopback may be that.
    pub fn addresses_of_sidecar(&self, url: &str) -> AllowedAddresses {
        let url: Option<Url> = url.parse().ok();
        let stated = url.as_ref().and_then(stated_address);
        match self.addresses {
            AllowedAddresses::Public if self.hosts.is_empty() => AllowedAddresses::Public,
            AllowedAddresses::Any => AllowedAddresses::Any,
            _ if stated.is_some_and(is_loopback) => AllowedAddresses::Any,
            AllowedAddresses::Public | AllowedAddresses::NotLoopback => AllowedAddresses::NotLoopback,
        }
    }

    /// Judges scheme, host, and an address that is written as the host. A name is judged once more when it is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), DestinationError> {
        if self.forbid_http && url.scheme() == "http" {
            return Err(DestinationError::PlainHttp);
        }
        let host = normalize_host(url.host_str().unwrap_or_default());
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern.matches(&host)) {
            return Err(DestinationError::Host { host });
        }
        stated_address(url).map_or(Ok(()), |address| self.check_address(address))
    }

    fn check_address(&self, address: IpAddr) -> Result<(), DestinationError> {
        match check_address(address, self.addresses.scope()) {
            Err(ForbiddenAddressError::Loopback) => Err(DestinationError::Address("loopback")),
            Err(ForbiddenAddressError::Private) => Err(DestinationError::Address("private")),
            // What is never connected to has an error of its own: of `check_text`, and of the transport.
            _ => Ok(()),
        }
    }

    /// The same, and also this URL's host.
    pub(crate) fn and_host_of(&self, url: &Url) -> Self {
        let mut extended = self.clone();
        if !self.hosts.is_empty() {
            let host = normalize_host(url.host_str().unwrap_or_default());
            let pattern = HostPattern { host, below: false };
            extended.hosts = self.hosts.iter().cloned().chain([pattern]).collect();
        }
        extended
    }
}

/// Of a Service or a pod, by the names that Kubernetes gives them in every cluster, or by the search domains of a pod.
fn is_name_of_cluster(host: &str) -> bool {
    !host.contains('.')
        || host.ends_with(".svc")
        || host.contains(".svc.")
        || host.ends_with(".cluster.local")
}

/// The address that a URL has for a host.
fn stated_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(name) => {
            let host = normalize_host(name);
            // RFC 6761 section 6.3: these are this machine, whatever a resolver says.
            let is_this_machine = host == "localhost" || host.ends_with(".localhost");
            is_this_machine.then_some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    check_address(address, AddressScope::NotLoopback) == Err(ForbiddenAddressError::Loopback)
}

impl AllowedAddresses {
    pub(crate) fn scope(self) -> AddressScope {
        match self {
            Self::Any => AddressScope::Any,
            Self::NotLoopback => AddressScope::NotLoopback,
            Self::Public => AddressScope::Public,
        }
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self.below {
            false => host == self.host,
            true => host
                .strip_suffix(&self.host)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let error = || HostPatternError {
            length: text.chars().count(),
        };
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        // As a URL's host is read, so that both are written alike, international names too.
        let host = Host::parse(name).map_err(|_| error())?;
        let is_name = matches!(host, Host::Domain(_));
        let host = normalize_host(&host.to_string());
        let is_written_well = !host.is_empty() && !host.contains('*') && (is_name || !below);
        is_written_well.then_some(Self { host, below }).ok_or_else(error)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(formatter, "{below}{}", self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destinations(hosts: &[&str]) -> Destinations {
        Destinations {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..Destinations::default()
        }
    }

    fn check(destinations: &Destinations, url: &str) -> Result<(), DestinationError> {
        destinations.check(&url.parse().unwrap())
    }

    #[test]
    fn a_listed_host_is_allowed_however_it_is_written_and_no_other() {
        let listed = destinations(&["Auth.Example.com", "*.corp.example", "10.0.0.7", "[fd00::7]"]);
        for url in [
            "https://auth.example.com/token",
            "https://AUTH.example.com.:8443/token",
            "https://a.corp.example/",
            "https://a.b.corp.example/",
            "https://10.0.0.7/",
            "https://[fd00:0::7]/",
        ] {
            assert_eq!(check(&listed, url), Ok(()), "{url}");
        }
        for url in [
            "https://example.com/",
            "https://auth.example.com.evil.example/",
            "https://xauth.example.com/",
            "https://corp.example/",
            "https://evilcorp.example/",
            "https://10.0.0.70/",
            "https://auth.example.com@evil.example/",
        ] {
            assert!(
                matches!(check(&listed, url), Err(DestinationError::Host { .. })),
                "{url}"
            );
        }
    }

    #[test]
    fn without_a_rule_everything_is_allowed() {
        for url in ["http://127.0.0.1:1/", "https://a.example/"] {
            assert_eq!(check(&Destinations::default(), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn loopback_is_found_in_every_form_and_private_addresses_are_another_matter() {
        let not_loopback = Destinations {
            addresses: AllowedAddresses::NotLoopback,
            ..Destinations::default()
        };
        for url in [
            "https://127.0.0.1/",
            "https://127.9.9.9/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
            "https://a.localhost./",
        ] {
            assert_eq!(
                check(&not_loopback, url),
                Err(DestinationError::Address("loopback")),
                "{url}"
            );
        }
        assert_eq!(check(&not_loopback, "https://10.0.0.1/"), Ok(()));
        let public = Destinations {
            addresses: AllowedAddresses::Public,
            ..Destinations::default()
        };
        for (url, kind) in [
            ("https://10.0.0.1/", "private"),
            ("https://[fd00::1]/", "private"),
            ("https://127.0.0.1/", "private"),
        ] {
            assert_eq!(check(&public, url), Err(DestinationError::Address(kind)), "{url}");
        }
        assert_eq!(check(&public, "https://1.1.1.1/"), Ok(()));
    }

    #[test]
    fn a_resource_states_no_address_that_is_never_connected_to_whatever_is_allowed() {
        for addresses in [
            AllowedAddresses::Any,
            AllowedAddresses::NotLoopback,
            AllowedAddresses::Public,
        ] {
            let allowed = Destinations {
                addresses,
                ..Destinations::default()
            };
            for (url, forbidden) in [
                ("http://169.254.169.254/mcp", ForbiddenAddressError::LinkLocal),
                ("http://[fe80::1]/mcp", ForbiddenAddressError::LinkLocal),
                (
                    "http://[::ffff:169.254.169.254]/mcp",
                    ForbiddenAddressError::LinkLocal,
                ),
                ("http://100.100.100.200/mcp", ForbiddenAddressError::Metadata),
                ("http://[fd00:ec2::254]/mcp", ForbiddenAddressError::Metadata),
                ("http://0.0.0.0/mcp", ForbiddenAddressError::Unspecified),
                ("http://0/mcp", ForbiddenAddressError::Unspecified),
                ("http://[::]/mcp", ForbiddenAddressError::Unspecified),
                ("http://224.0.0.1/mcp", ForbiddenAddressError::Multicast),
            ] {
                let refused = DestinationError::NeverAllowed(forbidden);
                assert_eq!(allowed.check_text(url), Err(refused), "{addresses:?} {url}");
            }
        }
        assert_eq!(
            Destinations::default().check_text("http://127.0.0.1:8000/mcp"),
            Ok(())
        );
        assert_eq!(Destinations::default().check_text("http://localhost/mcp"), Ok(()));
    }

    #[test]
    fn a_sidecar_connects_to_no_private_address_that_neither_policy_nor_url_names() {
        let allowed = |addresses, hosts: &[&str], url: &str| {
            let policy = Destinations {
                addresses,
                ..destinations(hosts)
            };
            assert_eq!(policy.check_text_of_sidecar(url), Ok(()), "{url}");
            policy.addresses_of_sidecar(url)
        };
        let server = "https://tools.example.com/mcp";
        for (addresses, hosts, url, expected) in [
            (AllowedAddresses::Any, &[][..], server, AllowedAddresses::Any),
            (
                AllowedAddresses::NotLoopback,
                &[],
                server,
                AllowedAddresses::NotLoopback,
            ),
            (
                AllowedAddresses::NotLoopback,
                &[],
                "http://localhost:8000/mcp",
                AllowedAddresses::Any,
            ),
            (
                AllowedAddresses::NotLoopback,
                &[],
                "http://127.0.0.1:8000/mcp",
                AllowedAddresses::Any,
            ),
            (AllowedAddresses::Public, &[], server, AllowedAddresses::Public),
            // Who lists a host knows where it is.
            (
                AllowedAddresses::Public,
                &["*.example.com"],
                server,
                AllowedAddresses::NotLoopback,
            ),
        ] {
            assert_eq!(
                allowed(addresses, hosts, url),
                expected,
                "{addresses:?} {hosts:?} {url}"
            );
        }
    }

    #[test]
    fn plain_http_is_forbidden_whatever_the_host_is() {
        let encrypted = Destinations {
            forbid_http: true,
            ..destinations(&["auth.example.com"])
        };
        assert_eq!(
            check(&encrypted, "http://auth.example.com/"),
            Err(DestinationError::PlainHttp)
        );
        assert_eq!(check(&encrypted, "https://auth.example.com/"), Ok(()));
    }

    #[test]
    fn a_text_that_is_no_host_is_an_error_that_does_not_repeat_it() {
        for text in [
            "",
            "*",
            "*.",
            "https://a.example",
            "a.example/token",
            "a.example:443",
            "a.*.example",
            "*.10.0.0.7",
            "a b",
        ] {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.contains("auth.example.com"), "{text}: {error}");
            assert!(text.len() < 3 || !error.contains(text), "{error}");
        }
    }
}
