//! Requests through an egress proxy: what the proxy sees of them, and what comes of one that does not let them through.

use std::sync::{Arc, Mutex};

use base64::prelude::{BASE64_STANDARD, Engine};
use mcp_auth_oauth::{
    Client, ConnectError, EgressProxy, Error, IssuedToken, ProxyCredentials, Registration, ServerLocation,
    TokenRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{self, Server, Step, answer, header, json};
use crate::{TOKEN, basic, tls};

/// What the proxy does with CONNECT.
#[derive(Clone, Copy)]
enum Answer {
    Connect,
    /// Unless these credentials come with it.
    Demand(&'static str),
    Deny,
}

/// An HTTP proxy on loopback that writes down the heads of requests.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer, Arc::clone(&seen)));
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, proxy_answer: Answer, seen: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(bytes).unwrap();
    seen.lock().unwrap().push(head.clone());
    let shown = header(&head, "proxy-authorization").and_then(|value| value.strip_prefix("Basic "));
    let shown = shown.map(|value| String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap());
    let refusal = match proxy_answer {
        Answer::Demand(credentials) if shown.as_deref() != Some(credentials) => {
            let headers = "proxy-authenticate: Basic realm=\"proxy\"\r\n";
            answer("407 Proxy Authentication Required", headers, "who are you?")
        }
        Answer::Deny => answer("403 Forbidden", "", "<html>Access denied by policy</html>"),
        Answer::Connect | Answer::Demand(_) => {
            let target = head
                .strip_prefix("CONNECT ")
                .and_then(|rest| rest.split_once(' '));
            let Some((target, _)) = target else {
                // Plain http is asked of the proxy itself; what it would forward comes from here.
                let _ = stream.write_all(&json("200 OK", TOKEN)).await;
                return;
            };
            let mut upstream = TcpStream::connect(target).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await
                .unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
            return;
        }
    };
    let _ = stream.write_all(&refusal).await;
}

fn credentials() -> ProxyCredentials {
    ProxyCredentials {
        username: "operator".into(),
        password: "pr0xy-s3cret".into(),
    }
}

/// A token endpoint by TLS, and a registration that reaches it by this proxy.
async fn behind(proxy: EgressProxy) -> (Server, Registration) {
    let (pem, acceptor) = tls::authority("localhost");
    let server = Server::start_tls(Step::Send(json("200 OK", TOKEN)), acceptor).await;
    let registration = Registration {
        ca_bundle: Some(pem),
        egress_proxy: Some(proxy),
        ..Registration::new(
            format!("https://localhost:{}/token", server.port),
            "client",
            basic(),
        )
    };
    (server, registration)
}

async fn ask(registration: Registration) -> Result<IssuedToken, Error> {
    server::install_provider();
    Client::new(registration)?
        .request_token(&TokenRequest::default())
        .await
}

#[tokio::test]
async fn a_request_by_tls_goes_through_a_tunnel_and_the_proxy_sees_neither_secret_nor_token() {
    let proxy = Proxy::start(Answer::Demand("operator:pr0xy-s3cret")).await;
    let stated = EgressProxy::new(&proxy.url(), Some(&credentials()), &[]).unwrap();
    let (mut server, registration) = behind(stated).await;
    ask(registration).await.unwrap();
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with(&format!("CONNECT localhost:{} ", server.port)),
        "{heads:?}"
    );
    assert_eq!(header(&heads[0], "authorization"), None);
    // Nor does the server see what the proxy is told.
    let (head, _) = server.form().await;
    assert!(!head.to_ascii_lowercase().contains("proxy-"), "{head}");
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_told_the_credentials_in_its_url() {
    let proxy = Proxy::start(Answer::Demand("operator:p@ss")).await;
    let url = format!("http://operator:p%40ss@127.0.0.1:{}", proxy.port);
    let inherited = EgressProxy::from_environment(Some(&url), None, None).unwrap();
    let (_server, registration) = behind(inherited.unwrap()).await;
    ask(registration).await.unwrap();
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn a_host_that_is_excepted_is_reached_without_the_proxy() {
    let proxy = Proxy::start(Answer::Deny).await;
    let stated = EgressProxy::new(&proxy.url(), None, &["localhost".into()]).unwrap();
    let (server, registration) = behind(stated).await;
    ask(registration).await.unwrap();
    assert_eq!((proxy.heads().len(), server.connections()), (0, 1));
}

#[tokio::test]
async fn a_proxy_that_wants_to_know_who_asks_is_told_apart_from_one_that_denies() {
    for (behaviour, stated, expected) in [
        (
            Answer::Demand("someone:else"),
            None,
            ConnectError::ProxyAuthentication,
        ),
        (
            Answer::Demand("someone:else"),
            Some(credentials()),
            ConnectError::ProxyAuthentication,
        ),
        (Answer::Deny, None, ConnectError::Proxy),
    ] {
        let proxy = Proxy::start(behaviour).await;
        let stated = EgressProxy::new(&proxy.url(), stated.as_ref(), &[]).unwrap();
        let (server, registration) = behind(stated).await;
        let error = ask(registration).await.unwrap_err();
        assert_eq!(error, Error::Connect(expected));
        let seen = format!("{error:?} {}", error.message());
        assert!(seen.contains("egressProxy") && !seen.contains("s3cret"), "{seen}");
        assert_eq!(server.connections(), 0);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_as_such_and_not_as_the_server() {
    // Bound, so that nothing else gets the port, and never listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = format!("http://{}", socket.local_addr().unwrap());
    for url in [gone.as_str(), "http://no-such-proxy.invalid:3128"] {
        let (_server, registration) = behind(EgressProxy::new(url, None, &[]).unwrap()).await;
        let error = ask(registration).await.unwrap_err();
        assert_eq!(error, Error::Connect(ConnectError::Proxy), "{url}");
    }
}

#[tokio::test]
async fn plain_http_is_asked_of_the_proxy_itself() {
    let proxy = Proxy::start(Answer::Demand("operator:pr0xy-s3cret")).await;
    let registration = Registration {
        allow_insecure_http: true,
        egress_proxy: Some(EgressProxy::new(&proxy.url(), Some(&credentials()), &[]).unwrap()),
        ..Registration::new("http://auth.example.com/token", "client", basic())
    };
    ask(registration).await.unwrap();
    let heads = proxy.heads();
    assert!(
        heads[0].starts_with("POST http://auth.example.com/token HTTP/1.1\r\n"),
        "{heads:?}"
    );
}

/// The proxy connects, so only addresses that are written in the URL can be judged here.
#[tokio::test]
async fn an_address_that_is_never_connected_to_is_not_asked_of_the_proxy_either() {
    let proxy = Proxy::start(Answer::Connect).await;
    let stated = EgressProxy::new(&proxy.url(), None, &[]).unwrap();
    for url in ["https://169.254.169.254/token", "https://[fd00:ec2::254]/token"] {
        let registration = Registration {
            egress_proxy: Some(stated.clone()),
            ..Registration::new(url, "client", basic())
        };
        let error = ask(registration).await.unwrap_err();
        assert_eq!(error.reason(), "ConnectForbidden", "{url}");
    }
    assert_eq!(proxy.heads().len(), 0);
}

#[tokio::test]
async fn discovery_goes_through_the_proxy_too() {
    let proxy = Proxy::start(Answer::Deny).await;
    let registration = Registration {
        egress_proxy: Some(EgressProxy::new(&proxy.url(), None, &[]).unwrap()),
        server: ServerLocation::Issuer("https://auth.example.com".into()),
        ..Registration::new("", "client", basic())
    };
    let error = ask(registration).await.unwrap_err();
    assert_eq!(error.reason(), "DiscoveryFailed");
    assert!(error.to_string().contains("the proxy on the way"), "{error}");
    let heads = proxy.heads();
    assert!(
        heads
            .iter()
            .all(|head| head.starts_with("CONNECT auth.example.com:443 "))
            && !heads.is_empty(),
        "{heads:?}"
    );
}
