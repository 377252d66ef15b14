//! A sidecar's stream out of HTTP.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::{Capability, Problem, Report, SnapshotLine};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::{authority_pem, bearer, report, token, token_of};
use mcp_auth_tests::upgraded_stream::{self, Answer};
use mcp_auth_tests::wait::{LIMIT, until};
use mcp_auth_tests::world::World;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn open(world: &World, token: &str, body: Bytes) -> Answer {
    let operator = setting("MCPAUTH_TEST_OPERATOR");
    let host = operator.strip_prefix("https://").unwrap();
    let address: SocketAddr = host.parse().unwrap();
    let tls = upgraded_stream::tls(&authority_pem(world).await);
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = tls.connect(ServerName::from(address.ip()), stream).await.unwrap();
    upgraded_stream::open(stream, host, token, body).await.unwrap()
}

fn line(report: &Report) -> Bytes {
    let mut line = serde_json::to_vec(report).unwrap();
    line.push(b'\n');
    line.into()
}

/// The next line that is no heartbeat; none once the operator has ended the stream.
async fn next_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<SnapshotLine> {
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            if line.len() > 1 {
                return Some(serde_json::from_slice(&line).unwrap());
            }
        }
        let read = tokio::time::timeout(LIMIT, stream.read_buf(buffer)).await;
        if read.expect("heartbeats come").expect("it ends in order") == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn a_stream_out_of_http_carries_snapshots_down_acknowledgements_up_and_its_end() {
    let world = World::new("upgrades-stream", false).await;
    world.secret("token", "token", "t0ken-1").await;
    let spec = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                      "podSelector": {"matchLabels": {"team": "red"}}});
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    let pod = world.pod("litellm-0", json!({"team": "red"})).await;
    let identity = token(&world, AUDIENCE, Some(&pod)).await;
    let says = Report {
        capabilities: vec![Capability::Deltas],
        ..report(&pod)
    };
    let Answer::Stream(mut stream) = open(&world, &identity, line(&says)).await else {
        panic!("it stays in HTTP");
    };
    let mut buffer = BytesMut::new();
    let mut base = loop {
        let SnapshotLine::Whole(snapshot) = next_line(&mut stream, &mut buffer).await.unwrap() else {
            panic!("a stream begins with the whole");
        };
        assert!(snapshot.capabilities.contains(&Capability::Upgrade));
        if bearer(&snapshot, "tools").as_deref() == Some("t0ken-1") {
            break snapshot.revision;
        }
    };
    let applied = |revision: &str| Report {
        acknowledged: Some(revision.to_owned()),
        ..says.clone()
    };
    stream.write_all(&line(&applied(&base))).await.unwrap();
    stream.flush().await.unwrap();
    let synced = async || world.status("tools").await.sidecars;
    until("what it has taken over to be counted", synced, |sidecars| {
        sidecars
            .as_ref()
            .is_some_and(|sidecars| sidecars.summary == "1/1")
    })
    .await;

    world.secret("token", "token", "t0ken-2").await;
    loop {
        let SnapshotLine::Delta(delta) = next_line(&mut stream, &mut buffer).await.unwrap() else {
            panic!("the whole came again");
        };
        assert_eq!(delta.base, base);
        base = delta.revision;
        let token = delta
            .servers
            .first()
            .and_then(|tools| token_of(&tools.credential));
        if token.as_deref() == Some("t0ken-2") {
            break;
        }
    }
    // Of its pod there is no stream any more.
    world.delete::<Pod>("litellm-0").await;
    while next_line(&mut stream, &mut buffer).await.is_some() {}
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_http_and_a_report_alone_is_the_request() {
    let world = World::new("upgrades-refused", false).await;
    let pod = world.pod("litellm-0", json!({"team": "red"})).await;
    let identity = token(&world, AUDIENCE, Some(&pod)).await;
    let first = line(&report(&pod));
    let twice = Bytes::from([first.clone(), first.clone()].concat());
    let cases = [
        ("garbage", first, 401, "InvalidToken"),
        (&*identity, Bytes::new(), 400, "NoReport"),
        (&*identity, twice, 400, "NoReport"),
    ];
    for (token, body, status, reason) in cases {
        let Answer::Refused(refused, problem) = open(&world, token, body).await else {
            panic!("{reason} is not refused");
        };
        let problem: Problem = serde_json::from_slice(&problem).unwrap();
        assert_eq!(
            (refused.as_u16(), &*problem.reason),
            (status, reason),
            "{problem:?}"
        );
    }
}
