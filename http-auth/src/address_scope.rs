//! Address scopes: which addresses a host may have, for the operator's own requests and for the sidecar's calls of MCP servers. Each
//! judges the very addresses that it connects to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds, which hand the machine's credentials to any program on it. AWS, Google Cloud,
/// Alibaba and Azure; the common one is link-local.
const METADATA_SERVICES: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// What addresses one host may have, the widest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AddressScope {
    /// Private ones too, as those of a cluster's Services are, and this machine's.
    Any,
    /// Private ones too, but not this machine's.
    NotLoopback,
    /// Only those that everyone can reach.
    Public,
}

/// An address that is not connected to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForbiddenAddressError {
    #[error("link-local")]
    LinkLocal,
    #[error("a cloud's metadata service")]
    Metadata,
    #[error("unspecified")]
    Unspecified,
    #[error("multicast or broadcast")]
    Multicast,
    #[error("this machine's")]
    Loopback,
    /// Or of this machine, or of no network in use: all that is not public.
    #[error("private")]
    Private,
    #[error("private")]
    PrivateByPolicy,
}

/// Whether an address may be connected to. IPv6 addresses that lead to an IPv4 address are judged as that
/// one.
pub fn check_address(address: IpAddr, scope: AddressScope) -> Result<(), ForbiddenAddressError> {
    let address = match address {
        IpAddr::V6(address) => embedded_ipv4(address).map_or(IpAddr::V6(address), IpAddr::V4),
        v4 => v4,
    };
    if METADATA_SERVICES.contains(&address) {
        return Err(ForbiddenAddressError::Metadata);
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(ForbiddenAddressError::Multicast);
    }
    let (link_local, unspecified, public) = match address {
        // 0.0.0.0/8 is this network (RFC 1122 section 3.2.1.3); systems take it for this machine.
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[0] == 0, is_public_v4(v4)),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_unspecified(), is_public_v6(v6)),
    };
    if link_local {
        return Err(ForbiddenAddressError::LinkLocal);
    }
    if unspecified {
        return Err(ForbiddenAddressError::Unspecified);
    }
    if address.is_loopback() && scope == AddressScope::NotLoopback {
        return Err(ForbiddenAddressError::Loopback);
    }
    if !public && scope == AddressScope::Public {
        return Err(ForbiddenAddressError::Private);
    }
    Ok(())
}

/// The IPv4 address in an IPv6 address: mapped or compatible (RFC 4291 section 2.5.5), translated (RFC 2765
/// section
/// 2.1) also by NAT64 (RFC 6052 section 2.1), or tunnelled by 6to4 (RFC 3056 section 2).
fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |segments: [u16; 8]| {
        let [a, b] = segments[6].to_be_bytes();
        let [c, d] = segments[7].to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        segments @ ([0, 0, 0, 0, 0, 0 | 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _]) => Some(last(segments)),
        [0x2002, high, low, ..] => Some(last([0, 0, 0, 0, 0, 0, high, low])),
        _ => None,
    }
}

/// All but the special-purpose addresses of RFC 6890 and its successors.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 127 | 240.., _, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _)
    );
    !(special || address.is_private() || address.is_link_local() || address.is_documentation())
}

/// Global unicast is 2000::/3; in it, Teredo and its neighbours (2001::/23) and documentation are special.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let special = matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x3fff, 0..=0x0fff));
    a & 0xe000 == 0x2000 && !special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(address: &str, scope: AddressScope) -> Result<(), ForbiddenAddressError> {
        check_address(address.parse().unwrap(), scope)
    }

    #[test]
    fn some_addresses_are_never_connected_to_not_even_stated_ones() {
        for (address, forbidden) in [
            ("169.254.169.254", ForbiddenAddressError::LinkLocal),
            ("169.254.0.1", ForbiddenAddressError::LinkLocal),
            ("fe80::1", ForbiddenAddressError::LinkLocal),
            ("febf::1", ForbiddenAddressError::LinkLocal),
            ("fd00:ec2::254", ForbiddenAddressError::Metadata),
            ("fd20:ce::254", ForbiddenAddressError::Metadata),
            ("100.100.100.200", ForbiddenAddressError::Metadata),
            ("168.63.129.16", ForbiddenAddressError::Metadata),
            ("0.0.0.0", ForbiddenAddressError::Unspecified),
            ("0.1.2.3", ForbiddenAddressError::Unspecified),
            ("::", ForbiddenAddressError::Unspecified),
            ("224.0.0.1", ForbiddenAddressError::Multicast),
            ("255.255.255.255", ForbiddenAddressError::Multicast),
            ("ff02::1", ForbiddenAddressError::Multicast),
        ] {
            for scope in [AddressScope::Any, AddressScope::Public] {
                assert_eq!(check(address, scope), Err(forbidden), "{address}");
            }
        }
    }

    #[test]
    fn private_addresses_are_for_stated_hosts_only() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.7",
            "240.0.0.1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "2001::1",
            "2001:db8::1",
            "64:ff9b:1::1",
        ] {
            assert_eq!(check(address, AddressScope::Any), Ok(()), "{address}");
            assert_eq!(
                check(address, AddressScope::Public),
                Err(ForbiddenAddressError::Private),
                "{address}"
            );
        }
    }

    #[test]
    fn public_addresses_are_for_everyone() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
        ] {
            assert_eq!(check(address, AddressScope::Public), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_v4_address_in_the_disguise_of_v6_is_judged_as_what_it_is() {
        for disguise in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:a9fe:a9fe",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert_eq!(
                check(disguise, AddressScope::Any),
                Err(ForbiddenAddressError::LinkLocal),
                "{disguise}"
            );
        }
        for disguise in ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"] {
            assert_eq!(
                check(disguise, AddressScope::Public),
                Err(ForbiddenAddressError::Private),
                "{disguise}"
            );
        }
        assert_eq!(check("::ffff:1.1.1.1", AddressScope::Public), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_forbidden_to_the_stated_is_forbidden_to_all(address: IpAddr) {
            if let Err(forbidden) = check_address(address, AddressScope::Any) {
                prop_assert_eq!(check_address(address, AddressScope::Public), Err(forbidden));
            }
        }

        #[test]
        fn a_mapped_address_is_judged_like_the_plain_one(address: Ipv4Addr) {
            for scope in [AddressScope::Any, AddressScope::Public] {
                prop_assert_eq!(
                    check_address(address.to_ipv6_mapped().into(), scope),
                    check_address(address.into(), scope)
                );
            }
        }
    }
}
