//! What LiteLLM is told of a client's address, so that it decides as it would without the sidecar in between: its
//! server (uvicorn, alone or under gunicorn) must take the same client from the headers that it took from the
//! connection, and LiteLLM must read the same `X-Forwarded-For` that the client sent.
//!
//! LiteLLM reads the first `X-Forwarded-For` field of a request. uvicorn, which trusts the sidecar's loopback address,
//! takes the last field (older versions), or walks through all of them from the end (0.54). So the client's own
//! fields stay as they are, and the address that uvicorn would have found is one more field after them.

use std::net::IpAddr;
use std::str::FromStr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// uvicorn's `FORWARDED_ALLOW_IPS`: whose `X-Forwarded-` headers it trusts, by the address that connects. Parsed as
/// uvicorn does, which takes any text: what is neither an address nor a network is compared as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustedProxies {
    all: bool,
    addresses: Vec<IpAddr>,
    networks: Vec<IpNet>,
    literals: Vec<String>,
}

impl FromStr for TrustedProxies {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut trusted = Self {
            all: text == "*",
            ..Self::default()
        };
        for part in text.split(',').map(str::trim) {
            let network = part.contains('/').then(|| part.parse::<IpNet>().ok()).flatten();
            // Python refuses a network with bits set after its prefix.
            if let Some(network) = network.filter(|network| network.addr() == network.network()) {
                trusted.networks.push(network);
            } else if let Ok(address) = part.parse() {
                trusted.addresses.push(address);
            } else {
                trusted.literals.push(part.to_owned());
            }
        }
        Ok(trusted)
    }
}

impl TrustedProxies {
    fn contains(&self, host: &str) -> bool {
        match host.parse() {
            Ok(address) => self.contains_address(&address),
            Err(_) => self.all || !host.is_empty() && self.literals.iter().any(|literal| literal == host),
        }
    }

    fn contains_address(&self, address: &IpAddr) -> bool {
        self.all
            || self.addresses.contains(address)
            || self.networks.iter().any(|network| network.contains(address))
    }

    /// The client that uvicorn takes from these `X-Forwarded-For` fields of a trusted proxy: the last one that is no
    /// trusted proxy itself, or else the first of all. `None` where they state none.
    fn client<'a>(&self, fields: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let stated: Vec<&str> = fields.flat_map(|field| field.split(',')).map(str::trim).collect();
        let first = *stated.first()?;
        let client = if self.all {
            first
        } else {
            let untrusted = stated
                .iter()
                .rev()
                .find(|stated| !self.contains(without_port(stated)));
            untrusted.copied().unwrap_or(first)
        };
        (!client.is_empty()).then_some(client)
    }
}

/// Who is connected, in the forms that each of its requests needs.
pub struct ClientPeer {
    address: IpAddr,
    field: HeaderValue,
}

impl From<IpAddr> for ClientPeer {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let field = HeaderValue::try_from(address.to_string());
        Self {
            address,
            field: field.expect("an address is made of header characters"),
        }
    }
}

/// Adds what makes LiteLLM's server see the client that it would see if `peer` were connected to it.
pub(super) fn set(headers: &mut HeaderMap, peer: &ClientPeer, trusted: &TrustedProxies) {
    let is_trusted = trusted.contains_address(&peer.address);
    let stated = if is_trusted {
        let fields = headers.get_all(X_FORWARDED_FOR).iter();
        let client = trusted.client(fields.filter_map(|field| field.to_str().ok()));
        client.and_then(|client| HeaderValue::from_str(client).ok())
    } else {
        None
    };
    headers.append(X_FORWARDED_FOR, stated.unwrap_or_else(|| peer.field.clone()));
    // uvicorn takes the last one for the URL's scheme, and would not have believed this client.
    if !is_trusted && headers.contains_key(X_FORWARDED_PROTO) {
        headers.append(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// The host of `host`, `host:port` or `[host]:port`; anything else is a host as a whole.
fn without_port(stated: &str) -> &str {
    if let Some(rest) = stated.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, port)) if port.is_empty() || port.starts_with(':') => host,
            _ => stated,
        };
    }
    match stated.split_once(':') {
        Some((host, port)) if !port.contains(':') && port.parse::<u32>().is_ok() => host,
        _ => stated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "127.0.0.1,::1";

    /// The fields `name` of a request with `fields` from `peer` when it arrives at LiteLLM.
    fn told(name: &HeaderName, trusted: &str, peer: &str, fields: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(name, HeaderValue::from_static(field));
        }
        let peer: IpAddr = peer.parse().unwrap();
        set(&mut headers, &peer.into(), &trusted.parse().unwrap());
        let fields = headers.get_all(name).iter();
        fields.map(|field| field.to_str().unwrap().to_owned()).collect()
    }

    fn told_for(trusted: &str, peer: &str, fields: &[&'static str]) -> Vec<String> {
        told(&X_FORWARDED_FOR, trusted, peer, fields)
    }

    #[test]
    fn what_a_client_states_stays_and_its_own_address_is_a_field_after_it() {
        assert_eq!(told_for(DEFAULT, "::ffff:10.0.0.9", &[]), ["10.0.0.9"]);
        let stated = ["1.1.1.1, 2.2.2.2", "3.3.3.3"];
        assert_eq!(
            told_for(DEFAULT, "10.0.0.9", &stated),
            ["1.1.1.1, 2.2.2.2", "3.3.3.3", "10.0.0.9"]
        );
    }

    #[test]
    fn of_a_trusted_proxy_the_last_address_that_is_no_proxy_counts() {
        let trusted = "10.0.0.0/8, 192.0.2.1,fd00::/8";
        for (stated, client) in [
            (&["203.0.113.10"][..], "203.0.113.10"),
            (&["6.6.6.6, 203.0.113.10, 10.9.9.9"], "203.0.113.10"),
            (&["203.0.113.10, 10.9.9.9:5000", "192.0.2.1"], "203.0.113.10"),
            (&["[2001:db8::1]:4711, [fd00::9]"], "[2001:db8::1]:4711"),
            (&["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            (&["unknown"], "unknown"),
            (&[""], "10.0.0.9"),
            (&[], "10.0.0.9"),
        ] {
            let told = told_for(trusted, "10.0.0.9", stated);
            assert_eq!(told.last().unwrap(), client, "{stated:?}");
            assert_eq!(told[..told.len() - 1], *stated);
        }
    }

    #[test]
    fn where_all_are_trusted_the_first_address_counts() {
        assert_eq!(
            told_for("*", "10.0.0.9", &["6.6.6.6, 203.0.113.10"]),
            ["6.6.6.6, 203.0.113.10", "6.6.6.6"]
        );
        assert_eq!(told_for("*", "10.0.0.9", &[]), ["10.0.0.9"]);
    }

    #[test]
    fn trusted_proxies_are_read_as_uvicorn_reads_them() {
        let trusts = |trusted: &str, host: &str| trusted.parse::<TrustedProxies>().unwrap().contains(host);
        assert!(trusts("10.0.0.0/8", "10.1.2.3") && !trusts("10.0.0.1/8", "10.0.0.1"));
        assert!(trusts("::1", "0:0:0:0:0:0:0:1"));
        assert!(trusts("unix:/run/x", "unix:/run/x") && !trusts("", "10.0.0.1"));
        assert!(!trusts("$(FORWARDED_ALLOW_IPS)", "10.0.0.1"));
    }

    #[test]
    fn the_scheme_is_believed_of_trusted_proxies_only() {
        let told = |peer, stated| told(&X_FORWARDED_PROTO, "10.0.0.9", peer, stated);
        assert_eq!(told("10.0.0.9", &["https"]), ["https"]);
        assert_eq!(told("10.0.0.8", &["https"]), ["https", "http"]);
        assert_eq!(told("10.0.0.8", &[]), [""; 0]);
    }
}
