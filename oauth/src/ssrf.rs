//! SSRF guard: which addresses may be connected to, checked in the resolver itself. The very addresses that a
//! connection goes to are checked: a name that is checked first and resolved again later could change in
//! between. The resolver is the system's, and tells a name that does not resolve from other failures by type.
//!
//! URLs that the resource itself states are trusted as far as the authors of resources are, so they may
//! lead to private addresses and even to this machine; link-local ones and those of clouds' metadata services
//! are refused even then.
//!
//! Behind an egress proxy ([`crate::EgressProxy`]) it is the proxy that resolves names and connects. Then only addresses
//! that are written in a URL are judged here; which names may lead where is the proxy's to say.

use std::io;
use std::sync::Arc;

pub use mcp_auth_http_auth::address_scope::ForbiddenAddressError;
pub(crate) use mcp_auth_http_auth::address_scope::{AddressScope, check_address};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which hosts may be at which addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum AddressPolicy {
    /// Every URL comes from the resource itself.
    Stated,
    /// URLs come from other servers' answers.
    Discovered {
        /// Hosts that the resource itself names, in lower case.
        stated: Arc<[String]>,
        /// Whether all the others may be at private addresses too.
        private: bool,
    },
}

/// The system's resolver, less the addresses that are forbidden.
#[derive(Clone, Debug)]
pub(crate) struct GuardedResolver {
    addresses: AddressPolicy,
    /// What the administrator allows of all of them.
    allowed: AddressScope,
    /// Hosts of the egress proxies, which are inside the network.
    proxies: Arc<[String]>,
    proxy_scope: AddressScope,
}

/// The name does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("the host name does not resolve")]
pub(crate) struct UnresolvedHostError(#[source] Option<io::Error>);

impl AddressPolicy {
    /// For URLs that others name, where these are the resource's own.
    pub fn discovered<'a>(stated: impl IntoIterator<Item = &'a Url>, private: bool) -> Self {
        let stated = stated
            .into_iter()
            .filter_map(Url::host_str)
            .map(normalize_host)
            .collect();
        Self::Discovered { stated, private }
    }

    /// Judges a URL whose host is an address; no resolver is asked for those. A name passes: it is judged
    /// when it is resolved.
    pub fn check_url(&self, url: &Url) -> Result<(), ForbiddenAddressError> {
        let scope = self.scope(url.host_str().unwrap_or_default());
        match url.host() {
            Some(Host::Ipv4(address)) => check_address(address.into(), scope),
            Some(Host::Ipv6(address)) => check_address(address.into(), scope),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn scope(&self, host: &str) -> AddressScope {
        match self {
            Self::Stated | Self::Discovered { private: true, .. } => AddressScope::Any,
            Self::Discovered { stated, .. } if stated.contains(&normalize_host(host)) => AddressScope::Any,
            Self::Discovered { .. } => AddressScope::Public,
        }
    }
}

impl GuardedResolver {
    pub fn new<'a>(
        addresses: AddressPolicy,
        allowed: AddressScope,
        proxies: impl IntoIterator<Item = &'a str>,
        proxy_scope: AddressScope,
    ) -> Self {
        Self {
            addresses,
            allowed,
            proxy_scope,
            proxies: proxies.into_iter().map(normalize_host).collect(),
        }
    }

    fn scope(&self, host: &str) -> AddressScope {
        match self.proxies.contains(&normalize_host(host)) {
            true => self.proxy_scope,
            false => self.addresses.scope(host).max(self.allowed),
        }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let scope = self.scope(name.as_str());
        let is_policy = self.allowed == AddressScope::Public;
        Box::pin(async move {
            // The port is the caller's to fill in.
            let resolved = tokio::net::lookup_host((name.as_str(), 0)).await;
            let mut refused = None;
            let addresses: Vec<_> = resolved
                .map_err(|error| UnresolvedHostError(Some(error)))?
                .filter(|address| match check_address(address.ip(), scope) {
                    Ok(()) => true,
                    Err(forbidden) => {
                        refused = Some(match forbidden {
                            ForbiddenAddressError::Private if is_policy => {
                                ForbiddenAddressError::PrivateByPolicy
                            }
                            forbidden => forbidden,
                        });
                        false
                    }
                })
                .collect();
            match (addresses.is_empty(), refused) {
                (false, _) => Ok(Box::new(addresses.into_iter()) as Addrs),
                (true, Some(forbidden)) => Err(forbidden.into()),
                (true, None) => Err(UnresolvedHostError(None).into()),
            }
        })
    }
}

pub(crate) fn normalize_host(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_that_are_stated_may_be_private() {
        let stated = Url::parse("https://Tools.example.com./mcp").unwrap();
        let addresses = AddressPolicy::discovered([&stated], false);
        assert_eq!(addresses.scope("tools.example.com"), AddressScope::Any);
        assert_eq!(addresses.scope("TOOLS.example.com"), AddressScope::Any);
        assert_eq!(addresses.scope("example.com"), AddressScope::Public);
        assert_eq!(addresses.scope("x.tools.example.com"), AddressScope::Public);
        let addresses = AddressPolicy::discovered([&stated], true);
        assert_eq!(addresses.scope("example.com"), AddressScope::Any);
    }

    #[test]
    fn the_egress_proxy_may_be_private_and_what_was_discovered_beside_it_may_not() {
        let resolver = GuardedResolver::new(
            AddressPolicy::discovered([], false),
            AddressScope::NotLoopback,
            ["Proxy.corp"],
            AddressScope::Any,
        );
        assert_eq!(resolver.scope("proxy.corp"), AddressScope::Any);
        assert_eq!(resolver.scope("auth.corp"), AddressScope::Public);
    }

    #[test]
    fn an_address_in_the_url_is_judged_however_it_is_written() {
        let addresses = AddressPolicy::discovered([], false);
        for url in [
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(
                addresses.check_url(&Url::parse(url).unwrap()),
                Err(ForbiddenAddressError::Private),
                "{url}"
            );
        }
        assert_eq!(
            AddressPolicy::Stated.check_url(&Url::parse("https://169.254.169.254/").unwrap()),
            Err(ForbiddenAddressError::LinkLocal)
        );
    }
}
