use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::FutureExt;
use http::Response;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

use super::*;
use crate::proxy::response_body::ResponseBody;

const MIB: usize = 1 << 20;

fn load(memory: usize) -> Arc<Load> {
    Load::new(Bounds {
        memory,
        headers: Duration::from_secs(30),
        keep_alive: Duration::from_secs(60),
        ..Bounds::default()
    })
}

fn connections(load: &Arc<Load>, number: usize) -> Vec<Connection> {
    (0..number).map_while(|_| load.connection()).collect()
}

/// Headers of this length arrive and do not end.
fn send_head(connection: &Connection, bytes: usize) -> (DuplexStream, WatchedIo<DuplexStream>) {
    let (mut theirs, ours) = tokio::io::duplex(MIB);
    theirs
        .write_all(&vec![b'x'; bytes])
        .now_or_never()
        .unwrap()
        .unwrap();
    let mut io = connection.watch_io(Arc::new(Mutex::new(ours)));
    let mut buffer = vec![0; bytes];
    io.read_exact(&mut buffer).now_or_never().unwrap().unwrap();
    (theirs, io)
}

fn answer(request: RequestInProgress) -> WatchedBody {
    let body = ResponseBody::Whole(Some(Bytes::from_static(b"answer")));
    request.answer(Response::new(body)).into_body()
}

/// The protocol takes the next part of the answer; that it has to ask for more is up to its client.
fn take(body: &mut WatchedBody) -> Poll<Option<bool>> {
    let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    frame.map(|frame| frame.map(|frame| frame.is_ok()))
}

fn request(connection: &Connection) -> RequestInProgress {
    connection
        .request(&Request::new(()))
        .map_err(|_| "there is no room")
        .unwrap()
}

fn has_ended(connection: &Connection) -> bool {
    connection.ended().now_or_never().is_some()
}

#[test]
fn long_headers_end_the_oldest_of_their_kind_and_no_request_under_way() {
    let load = load(MIB);
    let served = load.connection().unwrap();
    let _request = request(&served);
    let slow = connections(&load, 30);
    let _heads: Vec<_> = slow
        .iter()
        .map(|connection| send_head(connection, 64 * 1024))
        .collect();
    assert!(has_ended(&slow[0]), "the first of them");
    assert!(!has_ended(&slow[29]), "not the last");
    assert!(!has_ended(&served));
    assert!(load.held.load(Ordering::Relaxed) <= MIB);
}

#[test]
fn an_answer_that_is_not_taken_ends_before_all_that_wait() {
    let load = load(2 * MIB);
    let idle = load.connection().unwrap();
    let unread = connections(&load, 20);
    let mut bodies: Vec<_> = unread
        .iter()
        .map(|connection| answer(request(connection)))
        .collect();
    for body in &mut bodies {
        assert_eq!(take(body), Poll::Ready(Some(true)));
    }
    assert!(has_ended(&unread[0]));
    assert!(!has_ended(&unread[19]));
    assert!(!has_ended(&idle), "it holds little");
    assert_eq!(
        take(&mut bodies[19]),
        Poll::Ready(None),
        "whoever takes the answer gets all of it"
    );
}

#[test]
fn a_client_that_takes_its_answer_is_left_alone_however_many_do() {
    let load = load(2 * MIB);
    let reading = connections(&load, 20);
    for connection in &reading {
        let mut body = answer(request(connection));
        assert_eq!(take(&mut body), Poll::Ready(Some(true)));
        assert_eq!(take(&mut body), Poll::Ready(None));
    }
    assert!(!reading.iter().any(has_ended));
}

#[test]
fn new_connections_end_idle_ones_and_then_wait() {
    let load = load(MIB);
    let idle = connections(&load, 200);
    assert_eq!(idle.len(), 200, "there is always one to end instead");
    assert!(has_ended(&idle[0]) && !has_ended(&idle[199]));
    drop(idle);
    let busy: Vec<_> = connections(&load, 20);
    let _requests: Vec<_> = busy.iter().map(request).collect();
    assert_eq!(connections(&load, 100).len(), 100);
    assert!(!busy.iter().any(has_ended));
}

#[test]
fn a_request_that_there_is_no_memory_for_is_refused_and_the_others_go_on() {
    let load = load(MIB);
    let served = (0..26).map(|_| {
        let connection = load.connection().unwrap();
        (request(&connection), connection)
    });
    let mut served: Vec<_> = served.collect();
    let newcomer = load.connection().unwrap();
    assert!(newcomer.request(&Request::new(())).is_err());
    assert!(!has_ended(&newcomer) && !served.iter().any(|(_, connection)| has_ended(connection)));
    served.pop();
    assert!(
        newcomer.request(&Request::new(())).is_ok(),
        "once another is over"
    );
}

/// They are written anew for LiteLLM, and the buffer that they were read into has grown.
#[test]
fn long_headers_count_until_their_request_is_over_and_their_buffer_until_the_connection_is_parked() {
    const LENGTH: usize = 60_000;
    let load = load(8 * MIB);
    let held = || load.held.load(Ordering::Relaxed);
    let connection = load.connection().unwrap();
    let before = held();
    let _head = send_head(&connection, LENGTH);
    let read = held();
    assert_eq!(read - before, LENGTH - FREE_READ_BYTES);
    let long = Request::get("/").header("x", "x".repeat(LENGTH));
    let long = long.body(()).unwrap();
    let begun = connection.request(&long).map_err(|_| "there is no room");
    assert!(held() >= read + REQUEST_BYTES + LENGTH);
    drop(begun.unwrap());
    assert_eq!(held(), read);
    drop(request(&connection));
    assert_eq!(held(), read, "the buffer is as large for the next one");
    assert_eq!(connection.entry.shrink(), LENGTH - FREE_READ_BYTES);
    let http2 = load.connection().unwrap();
    assert!(http2.becomes_http2());
    let before = held();
    let stream = http2.request(&long).map_err(|_| "there is no room");
    assert!(
        held() >= before + REQUEST_BYTES + 2 * LENGTH,
        "nobody has read it so long"
    );
    drop(stream.unwrap());
    assert_eq!(held(), before);
}

/// It may be in three buffers until the next server has taken it, and its connection has one of them for longer.
#[test]
fn what_is_read_of_a_body_at_once_counts_until_its_end() {
    const LENGTH: usize = 60_000;
    let load = load(8 * MIB);
    let held = || load.held.load(Ordering::Relaxed);
    let connection = load.connection().unwrap();
    let upload = request(&connection);
    let before = held();
    let _body = send_head(&connection, LENGTH);
    assert_eq!(held() - before, (1 + BODY_BUFFERS) * LENGTH - FREE_READ_BYTES);
    upload.body_progress().received(LENGTH);
    load.sweep();
    assert!(held() > before + 2 * LENGTH, "more may come");
    upload.body_progress().ended();
    load.sweep();
    assert_eq!(
        held() - before,
        LENGTH - FREE_READ_BYTES,
        "the answer may take hours"
    );
    drop(upload);
    let upload = request(&connection);
    let _body = send_head(&connection, LENGTH);
    drop(upload);
    connection.entry.shrink();
    drop(connection);
    assert_eq!(held(), 0);
}

#[test]
fn what_is_over_is_counted_no_more() {
    let load = load(8 * MIB);
    {
        let connection = load.connection().unwrap();
        let _head = send_head(&connection, 30_000);
        let mut body = answer(request(&connection));
        let _ = take(&mut body);
        let other = load.connection().unwrap();
        assert!(other.becomes_http2());
        let mut streams: Vec<_> = (0..3).map(|_| answer(request(&other))).collect();
        let _ = take(&mut streams[0]);
        load.end(&other.entry);
    }
    assert_eq!(load.held.load(Ordering::Relaxed), 0);
    assert_eq!(load.requests.load(Ordering::Relaxed), 0);
    assert!(load.entries.lock().is_empty());
}

#[test]
fn a_stream_of_http2_that_is_not_taken_ends_alone_unless_it_is_the_last() {
    let load = load(4 * MIB);
    let shared = load.connection().unwrap();
    assert!(shared.becomes_http2());
    let mut slow = answer(request(&shared));
    let mut good = answer(request(&shared));
    assert_eq!(take(&mut slow), Poll::Ready(Some(true)));
    let end_unread = || load.shed(|waiting| waiting == Waiting::Unread, None, || false);
    end_unread();
    assert_eq!(
        take(&mut slow),
        Poll::Ready(Some(false)),
        "it is told as an error"
    );
    assert!(!has_ended(&shared), "another request is alive");
    assert_eq!(take(&mut good), Poll::Ready(Some(true)));
    end_unread();
    assert!(has_ended(&shared), "nobody is left");
}

#[test]
fn each_wait_has_its_own_time() {
    let load = load(8 * MIB);
    let silent = load.connection().unwrap();
    let dripping = load.connection().unwrap();
    let _head = send_head(&dripping, 10);
    let kept = load.connection().unwrap();
    drop(request(&kept));
    let serving = load.connection().unwrap();
    let _request = request(&serving);
    let http2 = load.connection().unwrap();
    assert!(http2.becomes_http2());
    let sweeps = |number| (0..number).for_each(|_| load.sweep());
    sweeps(31);
    assert!(
        !has_ended(&silent) && !has_ended(&dripping),
        "a moment longer rather than shorter"
    );
    sweeps(2);
    assert!(has_ended(&silent) && has_ended(&dripping) && !has_ended(&kept));
    sweeps(30);
    assert!(has_ended(&kept));
    sweeps(1_000);
    assert!(!has_ended(&serving) && !has_ended(&http2));
}

/// Of 60 s (AWS) and 600 s (Google Cloud): they send a request at the moment at which the sidecar would close.
#[test]
fn where_no_keep_alive_is_stated_a_connection_outlasts_those_of_load_balancers() {
    let load = Load::new(Bounds::within(None, None));
    let kept = load.connection().unwrap();
    drop(request(&kept));
    let sweeps = |number| (0..number).for_each(|_| load.sweep());
    sweeps(610);
    assert!(!has_ended(&kept));
    sweeps(60);
    assert!(has_ended(&kept), "though not for ever");
}

#[test]
fn a_socket_that_takes_nothing_counts_as_an_answer_that_is_not_read() {
    let load = load(8 * MIB);
    let connection = load.connection().unwrap();
    let (mut theirs, ours) = tokio::io::duplex(10);
    let mut io = connection.watch_io(Arc::new(Mutex::new(ours)));
    let written = io.write_all(b"more than ten bytes").now_or_never();
    assert!(written.is_none(), "it is full");
    assert!(connection.entry.is_unread());
    let mut buffer = [0; 10];
    let mut read = ReadBuf::new(&mut buffer);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut theirs).poll_read(&mut cx, &mut read).is_ready());
    io.write_all(b"more").now_or_never().unwrap().unwrap();
    assert!(!connection.entry.is_unread());
}

#[test]
fn a_connection_is_told_to_park_once_it_has_waited_for_a_while_and_to_retire_at_the_end() {
    let load = load(8 * MIB);
    let signal = |connection: &Connection| connection.signal().now_or_never();
    let [waiting, first, serving, http2] = [(); 4].map(|()| load.connection().unwrap());
    drop(request(&waiting));
    let _request = request(&serving);
    assert!(http2.becomes_http2());
    drop(request(&http2));
    load.sweep();
    assert_eq!(signal(&waiting), None, "it may be getting on");
    load.sweep();
    assert_eq!(signal(&waiting), Some(Signal::Park));
    for connection in [&first, &serving, &http2] {
        assert_eq!(signal(connection), None);
    }
    load.sweep();
    let _request = request(&waiting);
    assert_eq!(signal(&waiting), None, "a request has come meanwhile");
    load.retire(false);
    assert_eq!(signal(&first), None, "a request may be under way");
    assert_eq!(signal(&waiting), Some(Signal::Retire));
    load.retire(true);
    assert_eq!(signal(&first), Some(Signal::Retire));
    assert_eq!(signal(&first), None, "it is told once");
    load.end(&waiting.entry);
    assert_eq!(signal(&waiting), Some(Signal::End));
}

#[test]
fn what_was_read_before_a_connection_was_parked_is_read_once_more() {
    let load = load(8 * MIB);
    let connection = load.connection().unwrap();
    let (mut theirs, ours) = tokio::io::duplex(100);
    theirs.write_all(b"lo").now_or_never().unwrap().unwrap();
    let unread = Bytes::from_static(b"hel");
    let mut io = connection
        .watch_io(Arc::new(Mutex::new(ours)))
        .with_unread(unread);
    let mut read = [0; 5];
    io.read_exact(&mut read).now_or_never().unwrap().unwrap();
    assert_eq!(&read, b"hello");
    assert_eq!(connection.entry.read(1, || 0), Some(6), "it counts as what it is");
}

#[test]
fn a_request_whose_body_drips_ends_for_another_and_one_that_gets_on_or_waits_for_its_answer_does_not() {
    let load = Load::new(Bounds {
        requests: 3,
        ..Bounds::default()
    });
    let [dripping, uploading, answering, newcomer] = [(); 4].map(|()| load.connection().unwrap());
    let [drip, upload, _answer] = [&dripping, &uploading, &answering].map(request);
    for _ in 0..3 {
        for (request, bytes) in [(&drip, 1), (&upload, 100_000)] {
            request.body_progress().received(bytes);
            request.body_progress().awaits();
        }
        load.sweep();
    }
    let _admitted = request(&newcomer);
    assert!(has_ended(&dripping));
    let late = load.connection().unwrap();
    assert!(late.request(&Request::new(())).is_err(), "the others go on");
    upload.body_progress().ended();
    load.sweep();
    assert!(
        late.request(&Request::new(())).is_err(),
        "its answer is waited for, and no body"
    );
    assert!(!has_ended(&uploading) && !has_ended(&answering));
}

#[test]
fn a_body_that_drips_ends_only_where_its_place_is_needed() {
    let load = load(8 * MIB);
    let dripping = load.connection().unwrap();
    let drip = request(&dripping);
    for _ in 0..1_000 {
        drip.body_progress().awaits();
        load.sweep();
    }
    assert!(!has_ended(&dripping));
}
