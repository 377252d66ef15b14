//! Peers that take their time, with bounds short enough to wait for.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::{Pod, Server};
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Output};
use mcp_auth_sidecar::proxy::fingerprint::Fingerprinter;
use mcp_auth_sidecar::proxy::inbound::Inbound;
use mcp_auth_sidecar::proxy::inbound::client_address::TrustedProxies;
use mcp_auth_sidecar::proxy::metrics::Metrics;
use mcp_auth_sidecar::proxy::outbound::{Limits, Outbound};
use mcp_auth_sidecar::proxy::routes::Routes;
use mcp_auth_sidecar::proxy::user_context::seal::Sealer;
use mcp_auth_sidecar::server::{Bounds, Sockets, Workers};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::peer::{Client, Upstream};
use crate::scene::{
    Operator, SECRET, Scripted, TEST_TIMEOUT, as_litellm, client_frame, read_head, server, whole,
};

/// A sidecar before `upstream`, which is LiteLLM as well: its workers, and where its two halves listen.
pub fn bounded(upstream: SocketAddr, bounds: Bounds) -> (Workers, [SocketAddr; 2]) {
    bounded_before(server(&format!("http://{upstream}/mcp")), upstream, bounds)
}

fn bounded_before(tools: Server, upstream: SocketAddr, bounds: Bounds) -> (Workers, [SocketAddr; 2]) {
    let metrics = Metrics::new(&mut Registry::default());
    let routes = Routes::new(NonZeroUsize::MIN, metrics.clone(), watch::Sender::default());
    assert_eq!(routes.apply(&[tools]), []);
    let sealer = Arc::new(Sealer::new());
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sockets = Sockets::bind(Some(any), any, NonZeroUsize::MIN).unwrap();
    let addresses = [sockets.inbound().unwrap(), sockets.outbound()];
    let drain = Drain::default();
    let no_log = Output::File("/dev/null".into());
    let audit_log = AuditLog::start(&Pod::default(), no_log, Fingerprinter::new(), metrics.clone());
    let inbound = Inbound::new(
        upstream,
        TrustedProxies::default(),
        routes.clone(),
        sealer.clone(),
        audit_log.fingerprinter(),
        metrics.clone(),
        drain,
    );
    let inbound = inbound
        .with_decoding_memory(bounds.decoding)
        .with_tunnel_memory(bounds.memory / 8);
    let operator = Arc::new(Operator::default());
    let outbound = Outbound::new(
        routes,
        sealer,
        OutboundSecret::parse(SECRET).unwrap(),
        operator,
        Limits::default(),
        audit_log,
        metrics,
    );
    let workers =
        Workers::start_within(bounds, sockets, Some(Arc::new(inbound)), Arc::new(outbound)).unwrap();
    (workers, addresses)
}

#[tokio::test]
async fn headers_that_drip_are_given_up() {
    let upstream = Upstream::start().await;
    let bounds = Bounds {
        headers: Duration::from_millis(300),
        ..Bounds::default()
    };
    let (workers, addresses) = bounded(upstream.address, bounds);
    for address in addresses {
        let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
        // Each byte comes in time; only all of them together do not.
        let dripping = tokio::spawn(async move {
            let mut sent = writing.write_all(b"GET / HTTP/1.1\r\nX: ").await;
            while sent.is_ok() {
                sleep(Duration::from_millis(20)).await;
                sent = writing.write_all(b"x").await;
            }
        });
        let mut got = Vec::new();
        // A reset is an end as well.
        let _ = timeout(TEST_TIMEOUT, reading.read_to_end(&mut got))
            .await
            .expect("an end in time");
        dripping.abort();
    }
    assert_eq!(upstream.seen(), "nothing");
    workers.stop(Duration::ZERO);
}

#[tokio::test]
async fn for_a_connection_beyond_the_bound_an_idle_one_ends_and_none_with_a_request() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let bounds = Bounds {
        connections: 2,
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(listener.local_addr().unwrap(), bounds);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let begin = async || {
        let mut client = TcpStream::connect(inbound).await.unwrap();
        client.write_all(request).await.unwrap();
        client
    };
    let served = async || {
        let mut server = timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap().0;
        read_head(&mut server).await;
        server
    };
    let mut idle = TcpStream::connect(inbound).await.unwrap();
    let mut first = begin().await;
    let mut first_server = served().await;
    let mut second = begin().await;
    let mut second_server = served().await;
    let ended = timeout(TEST_TIMEOUT, idle.read(&mut [0; 1]))
        .await
        .expect("an end in time");
    assert!(matches!(ended, Ok(0) | Err(_)), "the idle one made room");

    let mut third = begin().await;
    for (client, server) in [(&mut first, &mut first_server), (&mut second, &mut second_server)] {
        server.write_all(answer).await.unwrap();
        assert!(read_head(client).await.starts_with("HTTP/1.1 200"));
    }
    let mut kept = [first_server, second_server];
    let third_server = async {
        // It comes over one of the connections that were kept.
        let [one, other] = &mut kept;
        tokio::select! {
            _ = read_head(one) => one.write_all(answer).await.unwrap(),
            _ = read_head(other) => other.write_all(answer).await.unwrap(),
        }
    };
    timeout(TEST_TIMEOUT, third_server)
        .await
        .expect("its turn in time");
    assert!(read_head(&mut third).await.starts_with("HTTP/1.1 200"));
    workers.stop(Duration::ZERO);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_while_all_have_requests_and_the_other_half_goes_on() {
    let litellm = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let bounds = Bounds {
        connections: 1,
        ..Bounds::default()
    };
    let (workers, [inbound, outbound]) = bounded(litellm.local_addr().unwrap(), bounds);
    let served = async |path: &str| {
        let mut server = timeout(TEST_TIMEOUT, litellm.accept()).await.unwrap().unwrap().0;
        let head = read_head(&mut server).await;
        assert!(head.starts_with(&format!("GET {path} ")), "{head}");
        server
    };
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let mut first = TcpStream::connect(inbound).await.unwrap();
    first
        .write_all(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first_server = served("/first").await;
    let mut late = TcpStream::connect(inbound).await.unwrap();
    late.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();

    let mut other = TcpStream::connect(outbound).await.unwrap();
    other
        .write_all(&as_litellm(b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .await
        .unwrap();
    // Whatever comes next at the server is this one: the late one waits.
    served("/mcp").await.write_all(answer).await.unwrap();
    assert!(read_head(&mut other).await.starts_with("HTTP/1.1 200"));

    first_server.write_all(answer).await.unwrap();
    assert!(read_head(&mut first).await.starts_with("HTTP/1.1 200"));
    served("/late").await.write_all(answer).await.unwrap();
    assert!(read_head(&mut late).await.starts_with("HTTP/1.1 200"));
    workers.stop(Duration::ZERO);
}

/// Connections that wait for a request give back their buffers after a moment; with them, 149 would fill this memory.
#[tokio::test]
async fn connections_that_wait_for_their_next_request_hold_little_and_go_on_with_it() {
    const NUMBER: usize = 250;
    let upstream = Upstream::start().await;
    let bounds = Bounds {
        memory: 2 << 20,
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(upstream.address, bounds);
    let mut kept: Vec<Client> = Vec::new();
    let keeping = async {
        while kept.len() < NUMBER {
            let mut client = Client::connect(inbound).await;
            if client.next("first").await.as_deref() == Some("200 for first") {
                kept.push(client);
            }
            // Where there is no room yet, those that have waited longest end for it: not so many at a time that nobody
            // ever waits for long.
            kept.retain(Client::is_open);
            sleep(Duration::from_millis(30)).await;
        }
    };
    timeout(TEST_TIMEOUT, keeping).await.expect("room for all");
    for client in &mut kept[..20] {
        assert_eq!(client.next("second").await.as_deref(), Some("200 for second"));
    }
    workers.stop(Duration::ZERO);
}

/// Its beginning was read before the request that came with it was answered.
#[tokio::test]
async fn headers_that_begin_behind_a_request_are_given_up_too() {
    let upstream = Upstream::start().await;
    let bounds = Bounds {
        headers: Duration::from_millis(300),
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(upstream.address, bounds);
    let mut client = TcpStream::connect(inbound).await.unwrap();
    let sent = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /late HTTP/1.1\r\nX: ";
    client.write_all(sent).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = timeout(TEST_TIMEOUT, client.read_to_end(&mut rest))
        .await
        .expect("an end in time");
    assert!(!upstream.seen().contains("/late"), "{}", upstream.seen());
    workers.stop(Duration::ZERO);
}

/// The bytes keep the end of the client's side from being read.
#[tokio::test]
async fn a_client_that_has_gone_is_noticed_although_it_sent_more_than_its_request() {
    for half in [0, 1] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (workers, addresses) = bounded(listener.local_addr().unwrap(), Bounds::default());
        let mut client = TcpStream::connect(addresses[half]).await.unwrap();
        let mut sent = as_litellm(b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n");
        sent.extend_from_slice(b"GET /more HTTP");
        client.write_all(&sent).await.unwrap();
        let mut server = timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap().0;
        read_head(&mut server).await;
        drop(client);
        let ended = timeout(TEST_TIMEOUT, server.read(&mut [0; 1]))
            .await
            .expect("an end in time");
        assert!(matches!(ended, Ok(0) | Err(_)));
        workers.stop(Duration::ZERO);
    }
}

const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A LiteLLM whose WebSockets repeat what they get.
async fn echoing() -> Scripted {
    Scripted::start(async |mut request: Request<hyper::body::Incoming>| {
        if !request.headers().contains_key("upgrade") {
            return Response::new(whole("for late"));
        }
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut reading, mut writing) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut reading, &mut writing).await
        });
        let switching = Response::builder().status(101).header("connection", "upgrade");
        switching.header("upgrade", "websocket").body(whole("")).unwrap()
    })
    .await
}

/// A WebSocket is a connection of its client as long as it lives.
#[tokio::test]
async fn a_websocket_counts_as_a_connection_until_it_ends() {
    let litellm = echoing().await;
    let bounds = Bounds {
        connections: 1,
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(litellm.address, bounds);
    let mut tunnel = TcpStream::connect(inbound).await.unwrap();
    tunnel.write_all(HANDSHAKE).await.unwrap();
    assert!(read_head(&mut tunnel).await.starts_with("HTTP/1.1 101"));
    let late = tokio::spawn(async move { Client::connect(inbound).await.next("late").await });
    // Time enough for the other to be served, if it could be.
    for _ in 0..200 {
        let ping = client_frame("ping");
        tunnel.write_all(&ping).await.unwrap();
        let mut pong = vec![0; ping.len()];
        let reading = tunnel.read_exact(&mut pong);
        timeout(TEST_TIMEOUT, reading).await.expect("it goes on").unwrap();
        assert_eq!(pong, ping);
    }
    assert_eq!(litellm.seen().len(), 1, "the other waits");
    drop(tunnel);
    let answer = timeout(TEST_TIMEOUT, late)
        .await
        .expect("its turn in time")
        .unwrap();
    assert_eq!(answer.as_deref(), Some("200 for late"));
    workers.stop(Duration::ZERO);
}

/// Whatever the server goes on sending, the sidecar holds only so much of it for a client that reads none;
/// and when the client goes, the server hears of it.
#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_server_and_fills_no_memory() {
    const MOST: usize = 64 << 20;
    for half in [0, 1] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (workers, addresses) = bounded(listener.local_addr().unwrap(), Bounds::default());
        let mut client = TcpStream::connect(addresses[half]).await.unwrap();
        let request = b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write_all(&as_litellm(request)).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n";
        server.write_all(begun).await.unwrap();
        let (part, mut written) = (vec![b'x'; 1 << 20], 0);
        while written < MOST {
            match timeout(Duration::from_secs(1), server.write(&part)).await {
                Ok(number) => written += number.unwrap(),
                Err(_) => break,
            }
        }
        assert!(written < MOST, "{written} bytes went somewhere");
        drop(client);
        let hearing = async { while server.write(&part).await.is_ok() {} };
        timeout(TEST_TIMEOUT, hearing).await.expect("an end in time");
        workers.stop(Duration::ZERO);
    }
}

/// There is no bound on the whole of a body: only silence ends one.
#[tokio::test]
async fn a_body_that_drips_arrives_whole_and_others_are_served_meanwhile() {
    let upstream = Upstream::start().await;
    let (workers, [inbound, _]) = bounded(upstream.address, Bounds::default());
    let mut dripping = TcpStream::connect(inbound).await.unwrap();
    dripping.set_nodelay(true).unwrap();
    let head = b"POST /drip HTTP/1.1\r\nHost: llm\r\nContent-Length: 100\r\n\r\n";
    dripping.write_all(head).await.unwrap();
    for number in 0..100 {
        dripping.write_all(b"x").await.unwrap();
        if number % 10 == 0 {
            let other = Client::connect(inbound).await.next("other").await;
            assert_eq!(other.as_deref(), Some("200 for other"));
        }
    }
    assert!(read_head(&mut dripping).await.starts_with("HTTP/1.1 200"));
    let body = "x".repeat(100);
    assert!(upstream.seen().contains(&body), "{}", upstream.seen());
    workers.stop(Duration::ZERO);
}

#[tokio::test]
async fn an_answer_that_stalls_ends_and_so_does_its_connection_to_the_server() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tools = server(&format!("http://{address}/mcp"));
    tools.route.answer_timeout_seconds = Some(1);
    let (workers, [_, outbound]) = bounded_before(tools, address, Bounds::default());
    let mut client = TcpStream::connect(outbound).await.unwrap();
    let request = b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.write_all(&as_litellm(request)).await.unwrap();
    let mut server = timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap().0;
    read_head(&mut server).await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    server.write_all(half).await.unwrap();
    let mut got = Vec::new();
    // A reset is an end as well.
    let _ = timeout(TEST_TIMEOUT, client.read_to_end(&mut got))
        .await
        .expect("an end in time");
    assert!(
        String::from_utf8_lossy(&got).ends_with("half"),
        "no more than there was"
    );
    let ended = timeout(TEST_TIMEOUT, server.read(&mut [0; 1]))
        .await
        .expect("an end in time");
    assert!(matches!(ended, Ok(0) | Err(_)));
    workers.stop(Duration::ZERO);
}

/// A tunnel holds memory though nothing moves in it.
#[tokio::test]
async fn websockets_beyond_what_there_is_memory_for_are_refused_until_one_ends() {
    let litellm = echoing().await;
    let bounds = Bounds {
        memory: 8 * 2 * 16 * 1024,
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(litellm.address, bounds);
    let open = async || {
        let mut tunnel = TcpStream::connect(inbound).await.unwrap();
        tunnel.write_all(HANDSHAKE).await.unwrap();
        let head = read_head(&mut tunnel).await;
        (tunnel, head)
    };
    let (first, head) = open().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (_second, head) = open().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (_refused, head) = open().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let answer = Client::connect(inbound).await.next("late").await;
    assert_eq!(answer.as_deref(), Some("200 for late"));
    drop(first);
    let again = async {
        while !open().await.1.starts_with("HTTP/1.1 101") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TEST_TIMEOUT, again).await.expect("its place in time");
    workers.stop(Duration::ZERO);
}
