//! Both versions of HTTP on both sides: MCP servers that speak HTTP/1.1 or HTTP/2, and clients that do.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcp_auth_protocol::sync::Server;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;

use crate::scene::{Body, SECRET, SECRET_HEADER, Seen, TEST_TIMEOUT, connect, send, server};

/// Each of the two ways to speak HTTP, for tests of what must be the same in both.
pub const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// An MCP server behind TLS whose answers the test writes.
pub struct Secure {
    pub address: SocketAddr,
    pem: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(Version, Seen)>>>,
}

/// What such a server is made of besides its answers.
#[derive(Clone, Copy)]
pub struct Options {
    pub offers: &'static [Version],
    pub max_streams: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offers: &[Version::HTTP_2, Version::HTTP_11],
            max_streams: 1_000,
        }
    }
}

/// For `localhost`, and its certificate in PEM.
pub fn acceptor(offers: &[Version]) -> (tokio_rustls::TlsAcceptor, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let name = |version: &Version| match *version {
        Version::HTTP_2 => b"h2".to_vec(),
        _ => b"http/1.1".to_vec(),
    };
    config.alpn_protocols = offers.iter().map(name).collect();
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), key.cert.pem())
}

/// The server `tools` at a port of `localhost` whose certificate is `pem`.
pub fn secure_tools(port: u16, pem: &str) -> Server {
    let mut tools = server(&format!("https://localhost:{port}/mcp"));
    tools.route.ca_bundle = Some(pem.to_owned());
    tools
}

impl Secure {
    pub async fn start<F, A>(options: Options, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (acceptor, pem) = acceptor(options.offers);
        let secure = Self {
            address: listener.local_addr().unwrap(),
            pem,
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (secure.connections.clone(), secure.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connections) = (acceptor.clone(), connections.clone());
                let (answer, requests) = (answer.clone(), requests.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = Seen {
                        method: request.method().to_string(),
                        target: request.uri().to_string(),
                        headers: request.headers().clone(),
                    };
                    requests.lock().unwrap().push((request.version(), seen));
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // A task for each, handshake included: one that is slow must not hold up those after it.
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    // How a connection ends is seen by its client.
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .max_concurrent_streams(options.max_streams)
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    }
                });
            }
        });
        secure
    }

    /// One that speaks only this.
    pub async fn speaking<F, A>(version: Version, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let offers: &[Version] = match version {
            Version::HTTP_2 => &[Version::HTTP_2],
            _ => &[Version::HTTP_11],
        };
        let options = Options {
            offers,
            ..Options::default()
        };
        Self::start(options, answer).await
    }

    pub fn tools(&self) -> Server {
        secure_tools(self.address.port(), &self.pem)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<(Version, Seen)> {
        self.requests.lock().unwrap().clone()
    }
}

/// A client's connection that speaks HTTP/2 without asking.
pub async fn http2(address: SocketAddr) -> SendRequest<Body> {
    let stream = connect(address).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// The request for `path` becomes one for `http://AUTHORITY/path`.
pub fn absolute(request: http::request::Builder, authority: &str, body: Body) -> Request<Body> {
    let mut request = request.header(SECRET_HEADER, SECRET).body(body).unwrap();
    *request.uri_mut() = format!("http://{authority}{}", request.uri())
        .parse::<Uri>()
        .unwrap();
    request
}

/// Over a connection of its own, which ends with the answer.
pub async fn ask(
    version: Version,
    address: SocketAddr,
    request: http::request::Builder,
    body: Body,
) -> Response<Incoming> {
    if version != Version::HTTP_2 {
        return send(address, request, body).await;
    }
    let mut sender = http2(address).await;
    let request = absolute(request, &address.to_string(), body);
    tokio::time::timeout(TEST_TIMEOUT, sender.send_request(request))
        .await
        .expect("an answer in time")
        .unwrap()
}
