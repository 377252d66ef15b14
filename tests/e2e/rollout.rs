//! Users notice nothing of a rollout.

use serde_json::Value;

use crate::client::{client, url};
use crate::command::kubectl;
use crate::ground::ground;
use crate::litellm;

const STOP: &str = "/tmp/stop";

#[tokio::test]
async fn a_rollout_under_constant_load_loses_no_call_and_no_stream() {
    ground().await;
    let litellm = url("litellm");
    kubectl(&["exec", "deploy/client", "--", "rm", "-f", STOP])
        .await
        .ok();
    kubectl(&["scale", "deploy/litellm", "--replicas=2"]).await.ok();
    litellm::ready("litellm").await;

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
        // One of the streams begins before the rollout, the others while it goes on.
        let begun = async {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            kubectl(&["rollout", "restart", "deploy/litellm"]).await.ok();
            litellm::ready("litellm").await;
        };
        let streams = async {
            [
                client(&litellm, &["stream", "--seconds", "20"]).await,
                client(&litellm, &["stream", "--seconds", "20"]).await,
            ]
        };
        let ((), streams) = tokio::join!(begun, streams);
        // The last old pod may still be on its way out.
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        kubectl(&["exec", "deploy/client", "--", "touch", STOP])
            .await
            .ok();
        streams
    };
    let (load, streams): (Value, [Value; 2]) = tokio::join!(client(&litellm, &load), rollout);
    kubectl(&["scale", "deploy/litellm", "--replicas=1"]).await.ok();

    assert!(load["sent"].as_u64() > Some(100), "the load went on: {load}");
    assert_eq!(load["failed"], 0, "{load}");
    for stream in streams {
        assert_eq!(stream["status"], 200, "{stream}");
        // Twenty words, the end of the answer and the end of the stream.
        assert!(
            stream["pieces"].as_u64() >= Some(22),
            "the stream ends whole: {stream}"
        );
        assert!(
            stream["longest_wait"].as_f64() < Some(10.0),
            "it arrives in pieces: {stream}"
        );
    }
}
