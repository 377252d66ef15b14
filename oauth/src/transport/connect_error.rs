//! Connect errors: why no connection was established.

use crate::destinations::DestinationError;
use crate::ssrf::ForbiddenAddressError;

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
            Self::Dns => "check the host in tokenUrl",
            Self::Refused => "check host and port in tokenUrl, and that the authorization server is up",
            Self::Tls(_) => {
                "check the host in tokenUrl and the server's certificate, and set caBundle if a private \
                 authority signed it"
            }
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
            Self::Other => "check tokenUrl and network policies",
        }
    }
}

fn because(detail: &Option<String>) -> String {
    detail
        .as_ref()
        .map(|detail| format!(" ({detail})"))
        .unwrap_or_default()
}
