//! What any pod of the cluster may try at the operator's ports, at replicas of these tests' own: whatever it is, the others are
//! served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::{EXCHANGE_PATH, PATH};
use mcp_auth_tests::admission_review::admission_review;
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Replica};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::sidecar::{Sidecar, bearer, report, token};
use mcp_auth_tests::world::World;
use reqwest::{Body, Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Of so many addresses, each with as many as one may have: more than the operator has places for.
const SILENT_ADDRESSES: u8 = 25;
/// A tenth of what has to be stood, for so many seconds.
const JUNK_A_SECOND: u32 = 100;
const SECONDS: u32 = 5;
/// Of one address, by the operator's own bound of those that have shown no token.
const CONNECTIONS_OF_ADDRESS: usize = 200;
/// Of one pod, by the operator's own bound.
const STREAMS_OF_POD: usize = 4;
/// What the operator may take at most for reviews that are no pods. One of them, parsed, is hundreds of megabytes.
const MAX_GROWTH_KIB: u64 = 200 * 1024;

/// And for 300 requests whose streams keep 250 KiB each, were they all to have one, 75 MB.
const MAX_STREAMS_GROWTH_KIB: u64 = 30 * 1024;

/// A namespace with a server, and an operator of its own.
struct Scene {
    world: World,
    replica: Replica,
    url: String,
}

impl Scene {
    async fn start(name: &str) -> Self {
        let world = World::new(name, false).await;
        world.secret("token", "token", "t0ken-1").await;
        let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
        world.apply(&resource("tools", "tools", given)).await.unwrap();
        let operator = Operator {
            namespace: world.namespace.clone(),
            watched_namespace: world.namespace.clone(),
            lease: name.into(),
            certificate_secret: format!("{name}-tls"),
            url: None,
            program: None,
            arguments: vec![ANY_ADDRESS.into()],
        };
        let replica = operator.start(name, None, None).await;
        replica.until_leads().await;
        let url = format!("https://{}", replica.address);
        Self { world, replica, url }
    }

    fn address(&self) -> SocketAddr {
        self.replica.address.parse().unwrap()
    }

    /// The stream of a pod that has just begun, from an address of its own.
    async fn new_sidecar(&self, pod: &str, last: u8) -> Sidecar {
        let labels = json!({"app.kubernetes.io/name": "litellm"});
        let pod: Pod = self.world.pod(pod, labels).await;
        let token = token(&self.world, AUDIENCE, Some(&pod)).await;
        let client = client(Ipv4Addr::new(127, 100, 0, last));
        let sidecar = Sidecar::connect_to(&self.url, &client, Some(&token), report(&pod)).await;
        sidecar.unwrap()
    }

    /// So many requests for users' tokens whose bodies never end, by two connections, of which each may have as many requests. Their
    /// statuses are among the answers.
    async fn ask_without_end(
        &self,
        token: &str,
        last: u8,
        requests: usize,
        answers: &mut JoinSet<StatusCode>,
    ) {
        let clients = [(); 2].map(|()| client(Ipv4Addr::new(127, 105, 0, last)));
        for client in &clients {
            // It would make one for each of the first requests.
            client.get(&self.url).send().await.unwrap();
        }
        for number in 0..requests {
            let endless = Body::wrap_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>());
            let request = clients[number % 2]
                .post(format!("{}{EXCHANGE_PATH}", self.url))
                .bearer_auth(token)
                .body(endless);
            answers.spawn(async move { request.send().await.unwrap().status() });
        }
    }

    async fn is_alive(&self) {
        for path in ["/healthz", "/readyz"] {
            assert!(self.replica.get(path).await.is_some(), "{path}");
        }
    }
}

/// Whoever comes from this address. The operator's certificate is not what these tests are about.
fn client(address: Ipv4Addr) -> Client {
    Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .local_address(IpAddr::V4(address))
        .build()
        .unwrap()
}

/// A third is no token at all, the others look like ServiceAccount tokens: of another audience, or of a pod that there may be, with
/// a signature that nobody made.
fn junk(number: u32) -> String {
    let claims = match number % 3 {
        0 => return format!("junk-{number}"),
        1 => json!({"aud": ["elsewhere"], "number": number}),
        _ => json!({
            "aud": [AUDIENCE], "exp": 4_000_000_000_u32, "number": number,
            "kubernetes.io": {"pod": {"name": "litellm", "uid": format!("{number}")}},
        }),
    };
    let header = json!({"alg": "RS256", "kid": "none"}).to_string();
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        encode(&header),
        encode(&claims.to_string()),
        encode("no signature")
    )
}

async fn send_junk(url: String) -> JoinSet<StatusCode> {
    let client = client(Ipv4Addr::new(127, 101, 0, 1));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / JUNK_A_SECOND);
    let mut answers = JoinSet::new();
    for number in 0..JUNK_A_SECOND * SECONDS {
        ticks.tick().await;
        let request = client
            .post(format!("{url}{PATH}"))
            .bearer_auth(junk(number))
            .body("");
        answers.spawn(async move { request.send().await.unwrap().status() });
    }
    answers
}

#[tokio::test]
async fn five_thousand_silent_connections_and_a_hundred_junk_tokens_a_second_keep_no_sidecar_out() {
    let scene = Scene::start("abuse-silent").await;
    let mut first = scene.new_sidecar("litellm-0", 1).await;
    first
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("t0ken-1"))
        .await;

    let mut silent: Vec<TcpStream> = Vec::new();
    // One address after the other, so that the first ones would have every place.
    for last in (1..=SILENT_ADDRESSES).flat_map(|last| [last; CONNECTIONS_OF_ADDRESS]) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 102, 0, last], 0))).unwrap();
        silent.push(socket.connect(scene.address()).await.unwrap());
    }
    // There are places for 4,000. Those that had to give way may take a moment to be closed.
    let open = open_files(&scene.replica);
    assert!(open < silent.len(), "the operator has {open} files open");
    let junk = tokio::spawn(send_junk(scene.url.clone()));
    let mut second = scene.new_sidecar("litellm-1", 2).await;
    second
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("t0ken-1"))
        .await;
    scene.world.secret("token", "token", "t0ken-2").await;
    for sidecar in [&mut first, &mut second] {
        sidecar
            .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("t0ken-2"))
            .await;
    }
    scene.is_alive().await;

    let statuses = junk.await.unwrap().join_all().await;
    // Of those that name a key that nobody knows few wait, and the others are sent away.
    let refused =
        |status: &StatusCode| [StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE].contains(status);
    assert!(statuses.iter().all(refused), "{statuses:?}");
    for mut connection in silent {
        // Each was taken or sent away, and has ended by now or does so by itself.
        let _ = connection.read(&mut [0]).await;
    }
    scene.is_alive().await;
}

#[tokio::test]
async fn a_pod_that_makes_requests_without_a_token_and_stays_takes_two_hundred_connections_and_no_more() {
    let scene = Scene::start("abuse-crowd").await;
    let crowd = Ipv4Addr::new(127, 103, 0, 1);
    // Those of an address by which pods have shown their tokens are not counted by it.
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let pod = scene.world.pod("litellm-1", labels).await;
    let token = token(&scene.world, AUDIENCE, Some(&pod)).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_OF_POD {
        let stream = Sidecar::connect_to(&scene.url, &client(crowd), Some(&token), report(&pod)).await;
        streams.push(stream.unwrap());
    }
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..CONNECTIONS_OF_ADDRESS + 20 {
        // One connection each, over HTTP/2, where nothing ends it while it is idle.
        let client = client(crowd);
        match client.get(format!("{}/nothing", scene.url)).send().await {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::NOT_FOUND);
                kept.push(client);
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!((kept.len(), refused), (CONNECTIONS_OF_ADDRESS, 20));
    let mut sidecar = scene.new_sidecar("litellm-0", 3).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    scene.is_alive().await;
}

#[tokio::test]
async fn a_pod_that_asks_for_users_tokens_without_end_has_256_turns_and_another_pod_its_own() {
    let scene = Scene::start("abuse-exchanges").await;
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let [crowd, other] = [
        scene.world.pod("crowd-0", labels.clone()).await,
        scene.world.pod("other-0", labels).await,
    ];
    let url = format!("{}{EXCHANGE_PATH}", scene.url);
    let crowd_token = token(&scene.world, AUDIENCE, Some(&crowd)).await;
    let other_token = token(&scene.world, AUDIENCE, Some(&other)).await;
    let mut answers = JoinSet::new();
    scene.ask_without_end(&crowd_token, 1, 300, &mut answers).await;
    // The first answers are those that had no turn. The others have theirs until their bodies are given up.
    for _ in 0..44 {
        let status = answers.join_next().await.unwrap().unwrap();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }
    let asked = client(Ipv4Addr::new(127, 105, 0, 2))
        .post(&url)
        .bearer_auth(other_token)
        .body("{}");
    assert_eq!(
        asked.send().await.unwrap().status(),
        StatusCode::BAD_REQUEST,
        "it is looked at"
    );
    for status in answers.join_all().await {
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn the_pods_of_a_namespace_that_ask_for_users_tokens_without_end_have_512_turns_and_another_namespace_its_own()
 {
    let scene = Scene::start("abuse-tenant").await;
    let other_tenant = World::new("abuse-other-tenant", false).await;
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let mut answers = JoinSet::new();
    for (last, name) in (3..).zip(["crowd-0", "crowd-1"]) {
        let pod = scene.world.pod(name, labels.clone()).await;
        let token = token(&scene.world, AUDIENCE, Some(&pod)).await;
        scene.ask_without_end(&token, last, 256 + 1, &mut answers).await;
        // The others have all of the pod's turns.
        let status = answers.join_next().await.unwrap().unwrap();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }
    for (world, last, expected) in [
        (&scene.world, 5, StatusCode::TOO_MANY_REQUESTS),
        (&other_tenant, 6, StatusCode::BAD_REQUEST),
    ] {
        let pod = world.pod("other-0", labels.clone()).await;
        let asked = client(Ipv4Addr::new(127, 105, 0, last))
            .post(format!("{}{EXCHANGE_PATH}", scene.url))
            .bearer_auth(token(world, AUDIENCE, Some(&pod)).await)
            .body("{}");
        assert_eq!(asked.send().await.unwrap().status(), expected);
    }
    answers.abort_all();
}

#[tokio::test]
async fn a_pod_that_opens_streams_without_end_has_four_and_another_pod_its_own() {
    let scene = Scene::start("abuse-streams").await;
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let crowd = scene.world.pod("crowd-0", labels).await;
    let crowd_token = token(&scene.world, AUDIENCE, Some(&crowd)).await;
    let clients = [(); 2].map(|()| client(Ipv4Addr::new(127, 106, 0, 1)));
    for client in &clients {
        client.get(&scene.url).send().await.unwrap();
    }
    let before = peak_memory(&scene.replica);
    let mut answers = JoinSet::new();
    for number in 0..300 {
        // Of a report that never ends, as much as may be read of one line.
        let begun = futures::stream::iter([Ok::<_, std::io::Error>(vec![b' '; 250 * 1024])]);
        let endless = Body::wrap_stream(futures::StreamExt::chain(begun, futures::stream::pending()));
        let request = clients[number % 2]
            .post(format!("{}{PATH}", scene.url))
            .bearer_auth(&crowd_token)
            .body(endless);
        answers.spawn(async move {
            let answer = request.send().await.unwrap();
            (answer.status(), answer.text().await.unwrap())
        });
    }
    for _ in 0..300 - STREAMS_OF_POD {
        let (status, problem) = answers.join_next().await.unwrap().unwrap();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert!(problem.contains("TooManyStreams"), "{problem}");
    }
    // The others have theirs until no report came.
    let mut other = scene.new_sidecar("other-0", 4).await;
    other.until(|snapshot| bearer(snapshot, "tools").is_some()).await;
    for (status, _) in answers.join_all().await {
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let growth = peak_memory(&scene.replica) - before;
    assert!(growth < MAX_STREAMS_GROWTH_KIB, "it took {growth} KiB");
    // And gives them back.
    let again = Sidecar::connect_to(&scene.url, &clients[0], Some(&crowd_token), report(&crowd)).await;
    again.unwrap();
}

/// Connections among them.
fn open_files(replica: &Replica) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", replica.id()))
        .unwrap()
        .count()
}

/// The most memory that the process has had, in KiB.
fn peak_memory(replica: &Replica) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", replica.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn review(pod: Value) -> Value {
    admission_review("abuse-reviews", &pod)
}

#[tokio::test]
async fn reviews_that_are_no_pods_take_no_memory_that_others_need() {
    let scene = Scene::start("abuse-reviews").await;
    let url = format!("{}/v1/inject", scene.url);
    let before = peak_memory(&scene.replica);
    let crowd = client(Ipv4Addr::new(127, 104, 0, 1));
    let mut parts = review(json!({"spec": {"containers": "PARTS"}})).to_string();
    let many = vec!["{}"; 100_000].join(",");
    parts = parts.replace("\"PARTS\"", &format!("[{many}]"));
    let mut answers = JoinSet::new();
    for _ in 0..20 {
        let request = crowd.post(&url).body(parts.clone());
        answers.spawn(async move { request.send().await.map(|answer| answer.status()) });
        // And some that never end, of three megabytes each.
        let begun = futures::stream::iter([Ok::<_, std::io::Error>(vec![b' '; 3 * 1024 * 1024 - 1])]);
        let endless = Body::wrap_stream(futures::StreamExt::chain(begun, futures::stream::pending()));
        let request = crowd.post(&url).body(endless);
        answers.spawn(async move { request.send().await.map(|answer| answer.status()) });
    }
    let others = client(Ipv4Addr::new(127, 104, 0, 2));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    });
    for _ in 0..20 {
        let answer = others
            .post(&url)
            .body(review(pod.clone()).to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "{}",
            answer.text().await.unwrap()
        );
    }
    for answer in answers.join_all().await {
        // It need not be read to its end before the answer, nor before the connection ends.
        let expected = [
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::BAD_REQUEST,
        ];
        assert!(
            answer.as_ref().map_or(true, |status| expected.contains(status)),
            "{answer:?}"
        );
    }
    let growth = peak_memory(&scene.replica) - before;
    assert!(growth < MAX_GROWTH_KIB, "it took {growth} KiB");
    scene.is_alive().await;
}
