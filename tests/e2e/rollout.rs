//! Users notice nothing of a rollout: neither those who call while it goes on, over connections that they
//! keep, nor those whose answers began before it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::client::{client, url};
use crate::command::{get, kubectl};
use crate::ground::{ground, pods};
use crate::litellm;

const STOP: &str = "/tmp/stop";

/// How long one stream takes; one is begun at each old pod in every period, so that some are always under way
/// there.
const STREAM_SECONDS: u64 = 20;
const PERIOD: Duration = Duration::from_secs(7);
/// The program that streams has connected by then.
const CONNECTED: Duration = Duration::from_secs(5);
/// A rollout of two pods takes about a minute.
const MOST_STREAMS: usize = 60;

/// A stream from one pod.
struct Stream {
    begun: Instant,
    ended: Instant,
    said: Value,
}

/// Those of a pod that was seen to go.
struct Gone {
    name: String,
    seen_going: Instant,
    streams: Vec<Stream>,
}

#[tokio::test]
async fn a_rollout_under_constant_load_loses_no_call_and_no_stream() {
    ground().await;
    let litellm = url("litellm");
    kubectl(&["exec", "deploy/client", "--", "rm", "-f", STOP])
        .await
        .ok();
    kubectl(&["scale", "deploy/litellm", "--replicas=2"]).await.ok();
    litellm::ready("litellm").await;
    let old = pods("litellm").await;
    assert_eq!(old.len(), 2, "two pods before the rollout");

    // One program with one pool of connections, which are kept from call to call.
    let load = [
        "load",
        "--through",
        "chat",
        "responses",
        "chat-stream",
        "--rate",
        "4",
        "--seconds",
        "300",
        "--until",
        STOP,
    ];
    let rollout = async {
        tokio::time::sleep(PERIOD).await;
        kubectl(&["rollout", "restart", "deploy/litellm"]).await.ok();
        litellm::ready("litellm").await;
        // The last old pod may still be on its way out.
        tokio::time::sleep(Duration::from_secs(8)).await;
        kubectl(&["exec", "deploy/client", "--", "touch", STOP])
            .await
            .ok();
    };
    let streams = join_all(old.iter().map(streams_until_gone));
    let (load, (), gone): (Value, (), Vec<Gone>) = tokio::join!(client(&litellm, &load), rollout, streams);
    kubectl(&["scale", "deploy/litellm", "--replicas=1"]).await.ok();

    assert!(load["sent"].as_u64() > Some(100), "the load went on: {load}");
    assert_eq!(load["failed"], 0, "{load}");
    for Gone {
        name,
        seen_going,
        streams,
    } in gone
    {
        let across: Vec<&Stream> = streams
            .iter()
            .filter(|stream| stream.begun + CONNECTED < seen_going && stream.ended > seen_going)
            .collect();
        assert!(!across.is_empty(), "a stream was under way when {name} had to go");
        for Stream { said, .. } in across {
            assert_eq!(said["status"], 200, "{name}: {said}");
            // Twenty words, the end of the answer and the end of the stream.
            assert!(
                said["pieces"].as_u64() >= Some(STREAM_SECONDS + 2),
                "{name}: the stream ends whole: {said}"
            );
            assert!(
                said["longest_wait"].as_f64() < Some(10.0),
                "{name}: it arrives in pieces: {said}"
            );
        }
    }
}

/// Begins one stream after the other at this pod, by its own address, until it is told to go; and waits for
/// them.
async fn streams_until_gone(pod: &Value) -> Gone {
    let name = pod["metadata"]["name"]
        .as_str()
        .expect("it has a name")
        .to_owned();
    let address = pod["status"]["podIP"].as_str().expect("it has an address");
    let litellm = format!("http://{address}:4000");
    let mut running = Vec::new();
    let mut going = Box::pin(is_going(name.clone()));
    let seen_going = loop {
        assert!(running.len() < MOST_STREAMS, "{name} goes within the rollout");
        running.push(tokio::spawn(stream(litellm.clone())));
        tokio::select! {
            seen = &mut going => break seen,
            () = tokio::time::sleep(PERIOD) => {}
        }
    };
    let mut streams = Vec::new();
    for stream in running {
        streams.push(stream.await.expect("the client's program prints JSON"));
    }
    Gone {
        name,
        seen_going,
        streams,
    }
}

async fn stream(litellm: String) -> Stream {
    let begun = Instant::now();
    let seconds = STREAM_SECONDS.to_string();
    let said = client(&litellm, &["stream", "--seconds", &seconds]).await;
    let ended = Instant::now();
    Stream { begun, ended, said }
}

/// When the pod was first seen to be on its way out, or gone.
async fn is_going(name: String) -> Instant {
    loop {
        let found = get(&["pods", "--field-selector", &format!("metadata.name={name}")]).await;
        let stays = found["items"].as_array().is_some_and(|pods| {
            pods.iter()
                .any(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        });
        if !stays {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
