//! From a route's URL, TLS and egress proxy to the target that requests are sent to.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderValue, Uri};
use mcp_auth_http_auth::address_scope::AddressScope;
use mcp_auth_protocol::sync::{ClientCertificate, EgressProxy, ServerAddresses};
use prometheus_client::metrics::counter::Counter;
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::route_error::RouteError;
use crate::http::connect::Way;
use crate::http::egress_proxy;
use crate::http::resolver::Resolver;
use crate::http::tls::Tls;
use crate::http::tls::TlsConfigs;
use crate::http::transport::Peer;
use crate::http::upstream::Target;

/// All that a connection to the MCP server depends on.
pub(super) struct Connection<'a> {
    pub url: &'a Url,
    pub http1_only: bool,
    pub answer_timeout: Duration,
    pub ca_bundle: Option<&'a str>,
    pub client_certificate: Option<&'a ClientCertificate>,
    pub egress_proxy: Option<&'a EgressProxy>,
    /// Which addresses of the host may be connected to. An egress proxy resolves the host's name by itself.
    pub addresses: Option<ServerAddresses>,
}

/// Where a URL leads to.
struct Place {
    peer: Peer,
    name: ServerName<'static>,
    /// Host and port, with the port whatever it is.
    authority: String,
}

impl Connection<'_> {
    pub(super) fn target(
        &self,
        trust: &TlsConfigs,
        connects: Counter,
        workers: usize,
    ) -> Result<Target, RouteError> {
        let place = Place::of(self.url, self.addresses.map(scope)).ok_or(RouteError::Url)?;
        let tls = match self.url.scheme() {
            "https" => {
                let config = trust.config(self.ca_bundle, self.client_certificate)?;
                Some(Tls::new(config, place.name))
            }
            _ => None,
        };
        let way = match self.egress_proxy {
            Some(proxy) => Way::Proxied(Box::new(self.egress_proxy(proxy, &place.authority, trust)?)),
            None => Way::Direct(place.peer),
        };
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let host = HeaderValue::from_str(host).map_err(|_| RouteError::Url)?;
        let target = Target::new(way, tls, host, Some(self.answer_timeout), connects, workers);
        Ok(match self.http1_only {
            true => target.http1_only(),
            false => target,
        })
    }

    /// A proxy by https is trusted by what the server is trusted by, and shown no certificate.
    fn egress_proxy(
        &self,
        proxy: &EgressProxy,
        server: &str,
        trust: &TlsConfigs,
    ) -> Result<egress_proxy::EgressProxy, RouteError> {
        let url = Url::parse(&proxy.url).map_err(|_| RouteError::EgressProxy)?;
        // Proxies are inside of the network.
        let proxy_scope = self
            .addresses
            .map(|addresses| scope(addresses).min(AddressScope::NotLoopback));
        let place = Place::of(&url, proxy_scope).ok_or(RouteError::EgressProxy)?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(Tls::new(trust.config(self.ca_bundle, None)?, place.name)),
            _ => return Err(RouteError::EgressProxy),
        };
        let authorization = proxy.authorization.as_ref().map(|value| {
            let mut value =
                HeaderValue::from_str(value.expose_secret()).map_err(|_| RouteError::EgressProxy)?;
            value.set_sensitive(true);
            Ok::<_, RouteError>(value)
        });
        let server_uri: Uri = server.parse().map_err(|_| RouteError::Url)?;
        let host = HeaderValue::from_str(server).map_err(|_| RouteError::Url)?;
        let authorization = authorization.transpose()?;
        Ok(egress_proxy::EgressProxy::new(
            place.peer,
            tls,
            server_uri,
            host,
            authorization,
        ))
    }
}

fn scope(addresses: ServerAddresses) -> AddressScope {
    match addresses {
        ServerAddresses::Any => AddressScope::Any,
        ServerAddresses::NotLoopback => AddressScope::NotLoopback,
        ServerAddresses::Public => AddressScope::Public,
    }
}

impl Place {
    fn of(url: &Url, scope: Option<AddressScope>) -> Option<Self> {
        let port = url.port_or_known_default()?;
        let host = url.host()?;
        let authority = format!("{host}:{port}");
        let name = match &host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned()).ok()?,
            Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
        };
        let peer = match host {
            Host::Domain(name) => Peer::Name {
                resolver: Resolver::new(name, port),
                scope,
            },
            Host::Ipv4(address) => Peer::Address((address, port).into()),
            Host::Ipv6(address) => Peer::Address((address, port).into()),
        };
        Some(Self {
            peer,
            name,
            authority,
        })
    }
}
