use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::http::connect::{CONNECT_TIMEOUT, Way, connect};
use crate::http::tls::TlsConfigs;

const OPENED: &str = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What the client of a proxy says before the tunnel is open.
async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A proxy that answers one CONNECT so, and what it was asked.
async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let (listener, address) = listen().await;
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        head
    });
    (address, asked)
}

fn proxy(address: SocketAddr, tls: Option<Tls>) -> EgressProxy {
    EgressProxy::new(
        Peer::Address(address),
        tls,
        "tools.example.com:443".parse().unwrap(),
        HeaderValue::from_static("tools.example.com:443"),
        Some(HeaderValue::from_static("Basic dXNlcjpwcjB4eQ==")),
    )
}

async fn error(address: SocketAddr) -> TunnelError {
    let opened = proxy(address, None)
        .open_tunnel(Instant::now() + CONNECT_TIMEOUT)
        .await;
    match opened {
        Err(error) => error,
        Ok(_) => panic!("a tunnel was opened"),
    }
}

/// A server of TLS for this name, and by what a client trusts it.
fn tls_server(name: &str) -> (TlsAcceptor, Tls) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let trust = TlsConfigs::default().config(Some(&cert.pem()), None).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), Tls::new(trust, name))
}

#[tokio::test]
async fn a_tunnel_is_asked_for_by_host_and_port_and_the_credentials_are_for_the_proxy_alone() {
    let (address, asked) = answering(OPENED).await;
    let proxy = proxy(address, None);
    let tunnel = proxy.open_tunnel(Instant::now() + CONNECT_TIMEOUT).await;
    assert!(matches!(tunnel.unwrap(), Io::Plain(_)));
    let asked = asked.await.unwrap().to_ascii_lowercase();
    assert!(
        asked.starts_with("connect tools.example.com:443 http/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("host: tools.example.com:443\r\n"), "{asked}");
    assert!(asked.contains("proxy-authorization: basic "), "{asked}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_with_its_status_and_what_to_look_at() {
    for (answer, expected) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno",
            "answers 407 Proxy Authentication Required to CONNECT: it wants other credentials",
        ),
        ("HTTP/1.0 401 Unauthorized\r\n\r\n", "it wants other credentials"),
        (
            "HTTP/1.0 403 Filtered\r\n\r\n",
            "it does not allow this host or port",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "it does not reach the server"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n",
            "answers 302 Found",
        ),
    ] {
        let (address, _asked) = answering(answer).await;
        let error = error(address).await;
        assert!(matches!(error, TunnelError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_answer_of_a_proxy_opens_no_tunnel() {
    for answer in ["", "220 mail.example.com ESMTP\r\n", "HTTP/1.1 2"] {
        let (address, _asked) = answering(answer).await;
        let error = error(address).await;
        assert!(matches!(error, TunnelError::NoAnswer(_)), "{answer}: {error:?}");
    }
    let (address, _asked) = answering("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await;
    assert!(matches!(error(address).await, TunnelError::Unexpected));
}

#[tokio::test]
async fn a_proxy_that_takes_no_connection_is_told_apart_from_the_server() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = error(address).await;
    assert!(matches!(error, TunnelError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("egress proxy"), "{error}");
}

#[tokio::test]
async fn a_proxy_by_tls_leads_to_a_server_by_tls_whose_certificate_is_its_own() {
    let (server, trusted) = tls_server("tools.example.com");
    let (of_proxy, trusted_proxy) = tls_server("proxy.example.com");
    let (server_listener, server_address) = listen().await;
    let (proxy_listener, proxy_address) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = server_listener.accept().await.unwrap();
        let mut stream = server.accept(stream).await.unwrap();
        let said = stream.read_u8().await.unwrap();
        stream.write_u8(said + 1).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read_u8().await;
    });
    tokio::spawn(async move {
        let (stream, _) = proxy_listener.accept().await.unwrap();
        let mut client = of_proxy.accept(stream).await.unwrap();
        read_head(&mut client).await;
        let mut server = TcpStream::connect(server_address).await.unwrap();
        client.write_all(OPENED.as_bytes()).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut server).await;
    });
    let way = Way::Proxied(Box::new(proxy(proxy_address, Some(trusted_proxy))));
    let mut io = connect(&way, Some(&trusted), true).await.unwrap();
    assert!(matches!(io, Io::TlsInTls(_)) && !io.is_http2());
    io.write_u8(41).await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(io.read_u8().await.unwrap(), 42);
}
