//! The sidecar's outbound job on pingora: `pingora-peer PORT CONFIGURATION` and the ports of the upstreams,
//! in the order of [`Forward`]. The first segment of the path says which upstream.

use std::error::Error;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::ALPN;
use pingora::proxy::http_proxy_service;
use pingora::server::configuration::ServerConf;

const TOKEN: &str = "Bearer upstream-secret-token-0123456789abcdef";
const KEPT: [&str; 2] = ["sid", "csrf"];

struct Forward {
    plain: u16,
    tls: u16,
    http2: u16,
    rig: u16,
    rig_tls: u16,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let name = path.split('/').nth(1).unwrap_or_default();
        let (port, alpn) = match name {
            "tls" => (self.tls, Some(ALPN::H1)),
            "h2" => (self.http2, Some(ALPN::H2)),
            "rig" => (self.rig, None),
            "righ2" => (self.rig_tls, Some(ALPN::H2)),
            _ => (self.plain, None),
        };
        let mut peer = HttpPeer::new(("127.0.0.1", port), alpn.is_some(), "localhost".to_owned());
        if let Some(alpn) = alpn {
            peer.options.alpn = alpn;
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let cookies = session.req_header().headers.get_all("cookie").iter();
        let kept: Vec<&str> = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .map(str::trim)
            .filter(|pair| {
                let name = pair.split('=').next().unwrap_or_default();
                KEPT.contains(&name)
            })
            .collect();
        match kept.is_empty() {
            true => drop(request.remove_header("cookie")),
            false => request.insert_header("cookie", kept.join("; "))?,
        }
        request.insert_header("authorization", TOKEN)?;
        request.remove_header("x-litellm-api-key");
        request.remove_header("mcpauth-context");
        request.insert_header("host", "localhost")?;
        Ok(())
    }

    async fn response_filter(&self, _: &mut Session, _: &mut ResponseHeader, _: &mut ()) -> Result<()> {
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or("seven arguments are needed");
    let port: u16 = argument()?.parse()?;
    let configuration = std::fs::read_to_string(argument()?)?;
    let configuration = ServerConf::from_yaml(&configuration)?;
    let forward = Forward {
        plain: argument()?.parse()?,
        tls: argument()?.parse()?,
        http2: argument()?.parse()?,
        rig: argument()?.parse()?,
        rig_tls: argument()?.parse()?,
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, forward);
    service.add_tcp(&format!("127.0.0.1:{port}"));
    server.add_service(service);
    server.run_forever()
}
