use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_liveness_probe_fails_when_a_task_is_stuck_and_at_no_other_time() {
    let liveness = Liveness::default();
    let health = Health {
        metrics: Metrics::default(),
        liveness: liveness.clone(),
        // Not ready is not dead: the API server is away, or another replica leads.
        listed: watch::channel(false).1,
        trusted: watch::channel(false).1,
        knows_tokens: watch::channel(false).1,
        knowing_until: watch::channel(Instant::now()).1,
        api_server_answers: watch::channel(false).1,
        closed: watch::channel(false).1,
    };
    liveness.beat("reconcile");
    assert_eq!(live(State(health.clone())).await.0, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(600)).await;
    let (status, message) = live(State(health)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(message, "reconcile has not moved for 600 s");
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_ready_once_it_knows_the_tokens_or_has_tried_for_a_while() {
    let yes = || watch::channel(true).1;
    let (knows, knows_tokens) = watch::channel(false);
    let health = Health {
        metrics: Metrics::default(),
        liveness: Liveness::default(),
        listed: yes(),
        trusted: yes(),
        knows_tokens,
        knowing_until: watch::channel(Instant::now() + Duration::from_secs(20)).1,
        api_server_answers: yes(),
        closed: watch::channel(false).1,
    };
    let status = async || ready(State(health.clone())).await.0;
    assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    knows.send_replace(true);
    assert_eq!(status().await, StatusCode::OK);
    knows.send_replace(false);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(status().await, StatusCode::OK, "it reviews pods");
}

#[test]
fn only_all_addresses_of_a_node_without_ipv6_become_those_of_ipv4() {
    let is_replaced =
        |address: &str, code| without_ipv6(address.parse().unwrap(), &io::Error::from_raw_os_error(code));
    assert!(is_replaced("[::]:10250", 97) && is_replaced("[::]:10250", 99));
    assert!(!is_replaced("[::]:10250", 98), "a port that is taken");
    assert!(!is_replaced("[::1]:10250", 97), "an address that somebody chose");
    assert!(!is_replaced("0.0.0.0:10250", 97));
}

#[tokio::test]
async fn silent_connections_of_one_address_keep_no_other_address_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bounds = ConnectionBounds::new(ConnectionLimits {
        unauthenticated_by_address: 1,
        ..MAX_CONNECTIONS
    });
    let _silent = TcpStream::connect(address).await.unwrap();
    let (_stream, place) = accept(&listener, &bounds).await;

    let mut too_many = TcpStream::connect(address).await.unwrap();
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = elsewhere.connect(address).await.unwrap();
    let (accepted, _other_place) = accept(&listener, &bounds).await;
    assert_eq!(accepted.peer_addr().unwrap(), other.local_addr().unwrap());
    assert_eq!(too_many.read(&mut [0]).await.unwrap(), 0, "it was closed");

    drop(place);
    let next = TcpStream::connect(address).await.unwrap();
    let (accepted, _place) = accept(&listener, &bounds).await;
    assert_eq!(accepted.peer_addr().unwrap(), next.local_addr().unwrap());
}

#[tokio::test]
async fn every_connection_asks_the_kernel_to_end_it_where_the_peer_acknowledges_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _peer = TcpStream::connect(address).await.unwrap();
    let bounds = ConnectionBounds::new(MAX_CONNECTIONS);
    let (accepted, _place) = accept(&listener, &bounds).await;
    let socket = SockRef::from(&accepted);
    assert!(socket.keepalive().unwrap(), "also where nothing is sent to it");
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_whole_request_is_closed_in_time() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let beginnings: [&[u8]; 4] = [b"", b"P", b"GET / HTTP/1.1\r\nHost:", preface];
    let (_never, closing) = watch::channel(false);
    let beginnings = beginnings
        .map(|beginning| [Protocol::Http1, Protocol::Unknown].map(|protocol| (protocol, beginning)));
    for (protocol, beginning) in beginnings.into_iter().flatten() {
        let (mut near, far) = tokio::io::duplex(1024);
        let bounds = ConnectionBounds::new(MAX_CONNECTIONS);
        let place = bounds.enter("127.0.0.1".parse().unwrap()).unwrap();
        let serving = tokio::spawn(connection(far, protocol, place, Router::new(), closing.clone()));
        near.write_all(beginning).await.unwrap();
        tokio::time::timeout(2 * FIRST_REQUEST_TIMEOUT, serving)
            .await
            .unwrap_or_else(|_| panic!("{:?} holds a connection", String::from_utf8_lossy(beginning)))
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_long_or_slow_is_given_up() {
    let read = |body| read_body(body, 4);
    assert_eq!(read(Body::from("body")).await.unwrap(), "body");
    assert_eq!(
        read(Body::from("a body")).await,
        Err(BodyError::TooLongOrBroken(4))
    );
    let slow = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(read(Body::from_stream(slow)).await, Err(BodyError::Slow));
}

#[tokio::test]
async fn a_connection_that_leaves_http_keeps_its_place_until_its_stream_ends() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n";
    for protocol in [Protocol::Http1, Protocol::Unknown] {
        let bounds = ConnectionBounds::new(ConnectionLimits {
            total: 1,
            ..MAX_CONNECTIONS
        });
        let (to_test, mut upgrades) = tokio::sync::mpsc::unbounded_channel();
        let upgrade = get(move |mut request: axum::extract::Request| async move {
            let upgrade = hyper::upgrade::on(&mut request);
            let place = request.extensions_mut().remove::<Arc<Place>>().unwrap();
            to_test.send((upgrade, place)).unwrap();
            let switched = [
                (http::header::CONNECTION, "upgrade"),
                (http::header::UPGRADE, "lines"),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, switched)
        });
        let router = Router::new().route("/", upgrade);
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let place = bounds.enter(address).unwrap();
        let (_never, closing) = watch::channel(false);
        let (mut near, far) = tokio::io::duplex(1024);
        let serving = tokio::spawn(connection(far, protocol, place, router, closing));
        near.write_all(REQUEST).await.unwrap();
        let (upgrade, place) = upgrades.recv().await.unwrap();
        let stream = upgrade.await.unwrap();
        serving.await.unwrap();
        place.authenticated("llm", "a pod").unwrap();
        place.entitled();
        assert!(
            bounds.enter(address).is_none(),
            "HTTP is over, and the stream is not"
        );
        drop((stream, place));
        assert!(bounds.enter(address).is_some());
    }
}

#[tokio::test]
async fn after_the_word_to_close_a_connection_answers_what_is_under_way_and_no_more() {
    for protocol in [Protocol::Http1, Protocol::Unknown] {
        let bounds = ConnectionBounds::new(MAX_CONNECTIONS);
        let place = bounds.enter(std::net::IpAddr::from([127, 0, 0, 1])).unwrap();
        let (close, closing) = watch::channel(false);
        let (started, mut under_way) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answered) = watch::channel(false);
        let slow = get(move || {
            let (started, mut answered) = (started.clone(), answered.clone());
            async move {
                started.send(()).unwrap();
                stopped(&mut answered).await;
                "answered"
            }
        });
        let (mut near, far) = tokio::io::duplex(1024);
        let router = Router::new().route("/", slow);
        let serving = tokio::spawn(connection(far, protocol, place, router, closing));
        near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        under_way.recv().await.unwrap();
        close.send_replace(true);
        answer.send_replace(true);
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("answered"), "{text}");
        serving.await.unwrap();
        close.closed().await;
    }
}

/// One that nothing listens at.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A connection from this address, once somebody listens.
async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        match socket.connect(to).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

#[tokio::test(start_paused = true)]
async fn each_listener_closes_a_connection_that_does_not_send_a_whole_request() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // That of the probes and of published keys, and that of the webhook and the sidecars, which share one.
    let (plain, tls) = (free_address(), free_address());
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve_plain(plain, Router::new()));
    tokio::spawn(serve_tls(tls, Certificates::self_made(), Router::new(), stopped));
    let half_a_request = b"GET / HTTP/1.1\r\nhost:";
    let hello = b"\x16\x03\x01";
    for (address, sent) in [
        (plain, &b""[..]),
        (plain, half_a_request),
        (plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (tls, b""),
        (tls, hello),
    ] {
        let mut stream = connect(LOOPBACK, address).await;
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{address} {:?}", String::from_utf8_lossy(sent));
    }
}

/// Sends a request over HTTP/1.1 and reads the answer's first bytes; none: the connection was closed. It stays open.
async fn ask(stream: &mut TcpStream) -> String {
    if stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .is_err()
    {
        return String::new();
    }
    let mut answer = [0; 12];
    match stream.read_exact(&mut answer).await {
        Ok(_) => String::from_utf8_lossy(&answer).into_owned(),
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn one_address_that_sends_requests_and_stays_keeps_the_kubelet_from_no_probe() {
    let address = free_address();
    tokio::spawn(serve_plain(address, Router::new()));
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..2 * MAX_PLAIN_CONNECTIONS.unauthenticated_by_address {
        let mut stream = connect(LOOPBACK, address).await;
        match ask(&mut stream).await.as_str() {
            "HTTP/1.1 404" => kept.push(stream),
            "" => refused += 1,
            answer => panic!("{answer}"),
        }
    }
    assert_eq!(kept.len(), MAX_PLAIN_CONNECTIONS.unauthenticated_by_address);
    assert_eq!(refused, MAX_PLAIN_CONNECTIONS.unauthenticated_by_address);
    let mut kubelet = connect([127, 0, 0, 2], address).await;
    assert_eq!(ask(&mut kubelet).await, "HTTP/1.1 404");
}

#[tokio::test]
async fn addresses_that_take_every_place_keep_the_kubelet_from_no_probe() {
    // With the kubelet's address known, and by one that nobody has told of, as a CNI plugin may have it.
    for preferred in [&[LOOPBACK.into()][..], &[]] {
        let address = free_address();
        let limits = ConnectionLimits {
            total: 20,
            unauthenticated_by_address: 2,
            ..MAX_PLAIN_CONNECTIONS
        };
        let bounds = ConnectionBounds::new(limits).preferring(preferred);
        tokio::spawn(serve_within(bounds, address, Router::new()));
        let mut crowd = Vec::new();
        for last in (2..42).chain(2..42) {
            let mut stream = connect([127, 0, 0, last], address).await;
            assert_eq!(ask(&mut stream).await, "HTTP/1.1 404", "each is let in");
            crowd.push(stream);
        }
        let mut kubelet = connect(LOOPBACK, address).await;
        assert_eq!(ask(&mut kubelet).await, "HTTP/1.1 404");
        for (number, stream) in crowd.iter_mut().enumerate() {
            let mut rest = Vec::new();
            // Those that came first gave way.
            if number < 50 {
                let ended =
                    tokio::time::timeout(Duration::from_secs(300), stream.read_to_end(&mut rest)).await;
                assert!(ended.is_ok(), "{number}");
            }
        }
    }
}

#[tokio::test]
async fn at_the_tls_port_silent_connections_of_a_crowd_give_way_to_one_that_comes() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bounds = ConnectionBounds::new(ConnectionLimits {
        without_request: 20,
        ..MAX_CONNECTIONS
    });
    let mut crowd = Vec::new();
    for number in 0..60 {
        let _stream = connect([127, 0, 0, 2 + number % 30], address).await;
        crowd.push(accept(&listener, &bounds).await.1);
    }
    let _newcomer = connect(LOOPBACK, address).await;
    let (accepted, place) = accept(&listener, &bounds).await;
    assert_eq!(
        accepted.peer_addr().unwrap().ip(),
        std::net::IpAddr::from(LOOPBACK)
    );
    let is_told = |place: &Place| futures::FutureExt::now_or_never(place.closed()).is_some();
    assert!(!is_told(&place));
    assert_eq!(crowd.iter().filter(|place| is_told(place)).count(), 41);
}

#[tokio::test]
async fn a_header_that_never_ends_is_refused_at_64_kib() {
    let address = free_address();
    tokio::spawn(serve_plain(address, Router::new()));
    let mut stream = connect(LOOPBACK, address).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
        .await
        .unwrap();
    let mut sent = 0;
    let chunk = [b'x'; 4096];
    while sent < 4 * MAX_BUFFER && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
        tokio::task::yield_now().await;
    }
    // It may have been reset meanwhile, with bytes of ours unread.
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    let mut next = connect(LOOPBACK, address).await;
    assert_eq!(ask(&mut next).await, "HTTP/1.1 404");
}
