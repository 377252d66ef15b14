//! Users notice nothing of a rollout: neither those who call while it goes on, over connections that they
//! keep, nor those whose answers began before it.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::SignedDuration;
use kube::runtime::wait::await_condition;
use mcp_auth_tests::wait::KUBECTL_LIMIT;
use mcp_auth_tests::world::World;
use serde_json::Value;

use crate::client::{calls_while, client, url};
use crate::command::kubectl;
use crate::ground::{ground, pods};
use crate::litellm;
use crate::timeline::Timeline;

/// How long one stream takes; one is begun at each old pod in every period, so that some are always under way
/// there.
const STREAM_SECONDS: u64 = 20;
const PERIOD: Duration = Duration::from_secs(10);
/// A rollout of two pods takes one to four minutes, by what else the machine does.
const MAX_STREAMS: usize = 60;

/// A pod that had to end, and the streams that were begun there.
struct Ended {
    name: String,
    /// When its deletion was requested of the API server, in Unix seconds. The API rounds down to whole ones.
    at: f64,
    streams: Vec<Value>,
}

#[tokio::test]
async fn a_rollout_under_constant_load_loses_no_call_and_no_stream() {
    let world = ground().await;
    let litellm = url("litellm");
    kubectl(&["scale", "deploy/litellm", "--replicas=2"]).await.ok();
    litellm::ready("litellm").await;
    let old = pods("litellm").await;
    assert_eq!(old.len(), 2, "two pods before the rollout");
    let timeline = Timeline::watch(&world);

    let rollout = async {
        tokio::time::sleep(PERIOD).await;
        kubectl(&["rollout", "restart", "deploy/litellm"]).await.ok();
        litellm::ready("litellm").await;
        // An old pod may still be on its way out, and calls with it.
        for pod in &old {
            let name = pod["metadata"]["name"].as_str().expect("it has a name");
            kubectl(&["wait", "--for=delete", &format!("pod/{name}"), KUBECTL_LIMIT])
                .await
                .ok();
        }
    };
    let streams = join_all(old.iter().map(|pod| streams_until_the_end(&world, pod)));
    let ((load, ()), ended): ((Value, ()), Vec<Ended>) =
        tokio::join!(calls_while(&litellm, rollout), streams);
    kubectl(&["scale", "deploy/litellm", "--replicas=1"]).await.ok();

    let account = timeline.account().await;
    assert!(load["sent"].as_u64() > Some(100), "the load went on: {load}");
    assert_eq!(load["failed"], 0, "{load}\n{account}");
    for Ended { name, at, streams } in ended {
        // What arrived of a stream before the end was ordered had passed through the pod by then. One that
        // was over by then, and be it with an error, had nothing to do with the end.
        let is_before = |time: &Value| time.as_f64().is_some_and(|time| time < at);
        let begun_before = |stream: &&Value| is_before(&stream["first"]) || is_before(&stream["ended"]);
        let begun: Vec<&Value> = streams.iter().filter(begun_before).collect();
        let across = begun
            .iter()
            .filter(|stream| stream["last"].as_f64() > Some(at + 1.0));
        assert!(
            across.count() > 0,
            "a stream was under way when {name} had to end: {streams:?}"
        );
        for stream in begun {
            assert_eq!(stream["status"], 200, "{name}: {stream}\n{account}");
            // Twenty words, the end of the answer and the end of the stream.
            assert!(
                stream["pieces"].as_u64() >= Some(STREAM_SECONDS + 2) && stream["failure"].is_null(),
                "{name}: the stream ends whole: {stream}\n{account}"
            );
            let spread = stream["last"].as_f64().zip(stream["first"].as_f64());
            assert!(
                spread.is_some_and(|(last, first)| last - first > STREAM_SECONDS as f64 / 2.0)
                    && stream["between"].as_u64() > Some(0),
                "{name}: it arrives in pieces, which the LLM says for twenty seconds: {stream}"
            );
        }
    }
}

/// Begins one stream after the other at this pod, by its own address, until the pod has to end; and waits for
/// them.
async fn streams_until_the_end(world: &World, pod: &Value) -> Ended {
    let name = pod["metadata"]["name"]
        .as_str()
        .expect("it has a name")
        .to_owned();
    let address = pod["status"]["podIP"].as_str().expect("it has an address");
    let litellm = format!("http://{address}:4000");
    let mut running = Vec::new();
    let mut end = Box::pin(end_ordered(world, name.clone()));
    let at = loop {
        assert!(running.len() < MAX_STREAMS, "{name} ends within the rollout");
        running.push(tokio::spawn(stream(litellm.clone())));
        tokio::select! {
            at = &mut end => break at,
            () = tokio::time::sleep(PERIOD) => {}
        }
    };
    let mut streams = Vec::new();
    for stream in running {
        streams.push(stream.await.expect("the client's program prints JSON"));
    }
    Ended { name, at, streams }
}

async fn stream(litellm: String) -> Value {
    client(&litellm, &["stream", "--seconds", &STREAM_SECONDS.to_string()]).await
}

/// Waits until the pod has to end; when that was ordered, in Unix seconds. The API states the time at which
/// the pod's grace period is over.
async fn end_ordered(world: &World, name: String) -> f64 {
    let has_to_end = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
    let pod = await_condition(world.api::<Pod>(), &name, has_to_end)
        .await
        .expect("pods can be watched")
        .expect("the condition holds for none but a pod");
    let over = pod.metadata.deletion_timestamp.expect("the condition").0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
    (over - SignedDuration::from_secs(grace)).as_second() as f64
}
