//! What the webhook answers to reviews that no API server sends, over its real listener.

use mcp_auth_tests::admission_review::admission_review;
use mcp_auth_tests::resource::{owned, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::authority;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use reqwest::{Body, Client, StatusCode};
use serde_json::{Value, json};

/// Larger than any object that Kubernetes stores.
const HUGE_BYTES: usize = 8 * 1024 * 1024;
const SECRET: &str = "s3cret-of-a-p0d";

async fn client(world: &World) -> Client {
    let authority = authority(world).await;
    Client::builder().tls_certs_only([authority]).build().unwrap()
}

fn url() -> String {
    format!("{}/v1/inject", setting("MCPAUTH_TEST_OPERATOR"))
}

/// A review of a pod of a namespace that has no resources.
fn review(pod: Value) -> Value {
    admission_review("reviews", &pod)
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    })
}

async fn answer(client: &Client, body: impl Into<Body>) -> (StatusCode, String) {
    let answer = client.post(url()).body(body).send().await.expect("an answer");
    (answer.status(), answer.text().await.unwrap())
}

/// The webhook answers a good review.
async fn is_served(client: &Client) {
    let (status, text) = answer(client, review(pod()).to_string()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &answer["response"]["allowed"], &answer["response"]["uid"]),
        (StatusCode::OK, &json!(true), &json!("u-1")),
        "{text}"
    );
}

#[tokio::test]
async fn a_review_that_cannot_be_read_is_refused_without_a_word_of_the_pod() {
    let world = World::new("reviews", false).await;
    let client = client(&world).await;
    let mut wrong_type = pod();
    wrong_type["spec"]["containers"][0]["env"] = json!([{"name": "KEY", "value": [SECRET]}]);
    let mut cut_off = review(pod()).to_string();
    cut_off.truncate(cut_off.len() - 3);
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = review(pod())
        .to_string()
        .replace("\"userInfo\":{}", &format!("\"userInfo\":{nested}"));
    for (name, body) in [
        ("empty", String::new()),
        ("no JSON", format!("{SECRET}{{")),
        ("cut off", cut_off),
        ("another kind", json!({"kind": "Pod", "data": SECRET}).to_string()),
        ("a field of another type", review(wrong_type).to_string()),
        ("nested deeply", deep),
        ("a list", json!([review(pod())]).to_string()),
    ] {
        let (status, text) = answer(&client, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}: {text}");
        assert!(
            text.starts_with("the body is no AdmissionReview: ") && !text.contains(SECRET),
            "{name}: {text}"
        );
        is_served(&client).await;
    }
    // A review without a request is one, and is answered as such.
    let without = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
    let (status, text) = answer(&client, without.to_string()).await;
    let answered: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &answered["response"]["allowed"]),
        (StatusCode::OK, &json!(false)),
        "{text}"
    );
}

#[tokio::test]
async fn a_huge_review_is_refused_and_the_next_one_is_served() {
    let world = World::new("reviews-huge", false).await;
    let client = client(&world).await;
    let mut huge = pod();
    huge["metadata"]["annotations"] = json!({"text": "x".repeat(HUGE_BYTES)});
    // It need not be read to its end before the answer.
    if let Ok(answer) = client.post(url()).body(review(huge).to_string()).send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let text = answer.text().await.unwrap();
        assert!(text.contains("AdmissionReview"), "{text}");
    }
    is_served(&client).await;
}

#[tokio::test]
async fn a_review_that_stalls_holds_no_other_up_and_is_given_up() {
    let world = World::new("reviews-slow", false).await;
    let client = client(&world).await;
    let stalled = || {
        let begun = futures::stream::iter([Ok::<_, std::io::Error>(b"{\"kind\":".to_vec())]);
        Body::wrap_stream(futures::StreamExt::chain(begun, futures::stream::pending()))
    };
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            let body = stalled();
            tokio::spawn(async move { client.post(url()).body(body).send().await })
        })
        .collect();
    is_served(&client).await;
    for request in waiting {
        // Given up by an answer, or by an end.
        if let Ok(answer) = request.await.unwrap() {
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        }
        is_served(&client).await;
    }
}

/// A LiteLLM pod that is selected.
fn litellm(asks: bool, container: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "litellm"});
    if asks {
        pod["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
    }
    pod["spec"]["containers"] = json!([{
        "name": container,
        "image": "berriai/litellm",
        "args": ["--port", "4000"],
        "ports": [{"name": "http", "containerPort": 4000}],
    }]);
    pod
}

/// The whole answer, with the patch as text.
async fn reviewed(client: &Client, namespace: &str, pod: Value) -> String {
    let mut review = review(pod);
    review["request"]["namespace"] = json!(namespace);
    let (status, text) = answer(client, review.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let patch: Vec<u8> = serde_json::from_value(answer["response"]["patch"].clone()).unwrap_or_default();
    format!("{}\n{}", answer["response"], String::from_utf8_lossy(&patch))
}

#[tokio::test]
async fn a_review_that_a_stranger_makes_up_tells_no_route_and_writes_no_event() {
    let world = World::new("reviews-stranger", false).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    let mut tools = resource("tools", "tools", given);
    tools["spec"]["cookiePassthrough"] = json!({"enabled": true, "cookieNames": ["a_cookie_of_ours"]});
    world.apply(&tools).await.unwrap();
    let status = async || world.status("tools").await;
    until("the resource is seen", status, |status| {
        status.observed_generation.is_some()
    })
    .await;
    let client = client(&world).await;
    let injectable = || litellm(false, "litellm");
    // It asks for the sidecar and cannot have it: LiteLLM's configuration is in the image.
    let refused = |path: &str| {
        let mut pod = litellm(true, "litellm");
        pod["spec"]["containers"][0]["args"] = json!(["--config", path]);
        pod
    };

    let known = owned(&world, injectable()).await;
    let owner = known["metadata"]["ownerReferences"].clone();
    let told = reviewed(&client, &world.namespace, known).await;
    assert!(
        told.contains("https://tools.example.com/mcp") && told.contains("a_cookie_of_ours"),
        "whose owner is known gets the routes: {told}"
    );

    let of_owner = |change: fn(&mut Value)| {
        let mut owner = owner.clone();
        change(&mut owner[0]);
        owner
    };
    for (name, owners) in [
        ("no owner", json!([])),
        (
            "a UID that is guessed",
            of_owner(|owner| owner["uid"] = json!("11111111-2222-3333-4444-555555555555")),
        ),
        ("an empty UID", of_owner(|owner| owner["uid"] = json!(""))),
        ("another name", of_owner(|owner| owner["name"] = json!("another"))),
        (
            "another kind",
            of_owner(|owner| owner["kind"] = json!("StatefulSet")),
        ),
        (
            "a third kind",
            of_owner(|owner| owner["kind"] = json!("DaemonSet")),
        ),
        (
            "an owner that is no controller",
            of_owner(|owner| owner["controller"] = json!(false)),
        ),
    ] {
        for mut pod in [injectable(), refused("/made-up.yaml")] {
            pod["metadata"]["ownerReferences"] = owners.clone();
            let told = reviewed(&client, &world.namespace, pod).await;
            assert!(
                !told.contains("tools.example.com") && !told.contains("a_cookie_of_ours"),
                "{name}: {told}"
            );
        }
    }

    // Events are written in the order that they were told in: what strangers told would be there before this one.
    let mut last = refused("/known.yaml");
    last["metadata"]["ownerReferences"] = owner;
    let told = reviewed(&client, &world.namespace, last).await;
    assert!(told.contains("\"allowed\":false"), "{told}");
    let events = until(
        "the event of the pod that is known",
        async || world.events("tools").await,
        |events| events.iter().any(|(_, note)| note.contains("/known.yaml")),
    )
    .await;
    assert!(
        !events.iter().any(|(_, note)| note.contains("/made-up.yaml")),
        "{events:?}"
    );
}
