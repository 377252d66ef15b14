//! Connect errors: why no connection was established.

use crate::destinations::DestinationError;
use crate::ssrf::ForbiddenAddressError;

/// The fields that an endpoint comes from.
macro_rules! endpoint_fields {
    () => {
        "tokenUrl (without it issuer, provider or server.url; of a GitHub App apiUrl)"
    };
}
pub(crate) use endpoint_fields;

/// Why no connection was established.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConnectError {
    #[error("its host name does not resolve")]
    Dns,
    #[error("it was refused")]
    Refused,
    #[error("TLS failed{}", because(.0))]
    Tls(Option<String>),
    #[error("its address is {0}")]
    Forbidden(ForbiddenAddressError),
    #[error("{0}")]
    ForbiddenByPolicy(DestinationError),
    /// The server's TLS alert says that it wants a certificate, or another one.
    #[error("the server does not take the client certificate{}", because(.0))]
    ClientCertificate(Option<String>),
    /// The proxy could not be reached, or opened no tunnel.
    #[error("the proxy on the way let none through")]
    Proxy,
    #[error("the proxy on the way demands authentication, or refuses the one it got")]
    ProxyAuthentication,
    #[error("it broke off")]
    Other,
}

impl ConnectError {
    /// What to check.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Dns => concat!("check the host in ", endpoint_fields!()),
            Self::Refused => concat!(
                "check host and port in ",
                endpoint_fields!(),
                ", and that the authorization server is up"
            ),
            Self::Tls(_) => concat!(
                "check the host in ",
                endpoint_fields!(),
                " and the server's certificate, and set caBundle if a private authority signed it"
            ),
            Self::Forbidden(ForbiddenAddressError::Private) => {
                "if what was discovered is to be at a private address, set oauth2.allowPrivateAddresses: \
                 true, or state tokenUrl"
            }
            Self::Forbidden(ForbiddenAddressError::Loopback | ForbiddenAddressError::PrivateByPolicy)
            | Self::ForbiddenByPolicy(_) => {
                "ask who runs mcp-auth, whose chart's policy.* says where requests may go, or use an endpoint that it \
                 allows"
            }
            Self::Forbidden(_) => "such an address is never connected to; check the host's DNS records",
            Self::ClientCertificate(_) => {
                "check that the authorization server trusts the authority of the certificate in \
                 clientAuthentication.certificateRef and knows its subject for this client; without that \
                 certificate, use the method TlsClientAuth"
            }
            Self::Proxy => {
                "check the address in spec.egressProxy or in the operator's HTTPS_PROXY, that this proxy allows \
                 CONNECT to this host and port, and the credentials that it gets; hosts to be reached without it \
                 belong into noProxy or NO_PROXY"
            }
            Self::ProxyAuthentication => {
                "set spec.egressProxy.credentialsRef to a Secret with username and password, or check those in \
                 it"
            }
            Self::Other => concat!("check ", endpoint_fields!(), " and network policies"),
        }
    }
}

fn because(detail: &Option<String>) -> String {
    detail
        .as_ref()
        .map(|detail| format!(" ({detail})"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_check_names_each_field_that_the_endpoint_may_come_from() {
        for error in [
            ConnectError::Dns,
            ConnectError::Refused,
            ConnectError::Tls(None),
            ConnectError::Other,
        ] {
            for field in [
                "tokenUrl",
                "issuer",
                "provider",
                "server.url",
                "GitHub App apiUrl",
            ] {
                assert!(error.hint().contains(field), "{error:?}: {}", error.hint());
            }
        }
    }
}
