//! Pods that only disturb, beside all those sidecars: connections that say nothing, and bearer tokens that are none.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mcp_auth_protocol::sync::PATH;
use mcp_auth_tests::world::World;
use reqwest::StatusCode;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinSet;

use crate::api_server::Requests;
use crate::objects::{self, server_name};
use crate::phases::Scene;
use crate::results::{Junk, Silent};
use crate::say;
use crate::sidecars::Speaker;
use crate::sizes::Sizes;

/// A tenth of what has to be stood, for what it costs. That no more are let in than there are places for, a test of tests/api/abuse.rs shows.
const CONNECTIONS: usize = 1_500;
const JUNK_A_SECOND: u32 = 100;
/// At least; longer where what is measured beside it takes longer.
const SECONDS: u32 = 10;

pub async fn measure(scene: &mut Scene, world: &World, sizes: &Sizes, speaker: &Speaker) -> Silent {
    let replica: SocketAddr = scene.replicas[0].address.parse().unwrap();
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        connections.push(silent_connection(number, replica).await);
    }
    let before = Requests::count(&scene.operator_world.client).await;
    let (measured, until_measured) = oneshot::channel();
    let junk = tokio::spawn(send_junk(replica, until_measured));
    let pods = objects::pods_from(world, sizes.pods, sizes.pods + 1).await;
    let connecting = Instant::now();
    scene.sidecars.lead_to([&*scene.replicas[0].address]);
    scene.connect(&pods).await;
    let new_sidecar_seconds = connecting.elapsed().as_secs_f64();
    // Of the first namespace.
    let resource = sizes.resources - 1;
    let server = server_name(resource);
    let renewal_seconds = scene.renew(speaker, resource, &server, sizes.pods + 1).await;
    // The task has not ended: it waits for this.
    measured.send(()).unwrap();
    let junk = junk.await.unwrap();
    let requests = Requests::count(&scene.operator_world.client).await.since(&before);
    let silent = Silent {
        connections: connections.len(),
        junk,
        token_reviews: requests.token_reviews,
        new_sidecar_seconds,
        renewal_seconds,
        memory: scene.memory(),
    };
    scene
        .sidecars
        .lead_to(scene.replicas.iter().map(|replica| &*replica.address));
    say(&format!("{silent:?}"));
    silent
}

/// Of thirty pods.
async fn silent_connection(number: usize, replica: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let last = u8::try_from(number % 30).unwrap();
    socket
        .bind(SocketAddr::from((Ipv4Addr::new(127, 200, 0, last + 1), 0)))
        .unwrap();
    socket.connect(replica).await.unwrap()
}

/// Requests, each with another token, at the same rate until all beside them is measured: whatever the answers take, the next one
/// is sent.
async fn send_junk(replica: SocketAddr, mut until_measured: oneshot::Receiver<()>) -> Junk {
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .local_address(std::net::IpAddr::from([127, 201, 0, 1]))
        .build()
        .unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / JUNK_A_SECOND);
    let began = Instant::now();
    let mut answers = JoinSet::new();
    for number in 0.. {
        let is_measured = !matches!(until_measured.try_recv(), Err(TryRecvError::Empty));
        if number >= JUNK_A_SECOND * SECONDS && is_measured {
            break;
        }
        ticks.tick().await;
        let request = client
            .post(format!("https://{replica}{PATH}"))
            .bearer_auth(junk(number))
            .body("");
        answers.spawn(async move { Some(request.send().await.ok()?.status()) });
    }
    let sending_seconds = began.elapsed().as_secs_f64();
    let mut junk = Junk {
        sent: answers.len(),
        sending_seconds,
        refused: 0,
        put_off: 0,
        unanswered: 0,
        answered_seconds: 0.0,
    };
    for status in answers.join_all().await {
        match status {
            Some(StatusCode::UNAUTHORIZED) => junk.refused += 1,
            // It names a key that the operator does not know, and more of those wait for the API server than may.
            Some(StatusCode::SERVICE_UNAVAILABLE) => junk.put_off += 1,
            Some(status) => panic!("junk is answered with {status}"),
            None => junk.unanswered += 1,
        }
    }
    junk.answered_seconds = began.elapsed().as_secs_f64();
    junk
}

/// A third is no token at all, the others look like ServiceAccount tokens: of another audience, or of a pod that
/// there may be, with a signature that nobody made.
fn junk(number: u32) -> String {
    use base64::Engine;
    let claims = match number % 3 {
        0 => return format!("junk-{number}"),
        1 => serde_json::json!({"aud": ["elsewhere"], "number": number}),
        _ => serde_json::json!({
            "aud": ["mcp-auth-operator"], "exp": 4_000_000_000_u32, "number": number,
            "kubernetes.io": {"namespace": "scale-000", "pod": {"name": "litellm", "uid": format!("{number}")}},
        }),
    };
    let encode = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        encode(r#"{"alg":"RS256","kid":"none"}"#),
        encode(&claims.to_string()),
        encode("no signature")
    )
}
