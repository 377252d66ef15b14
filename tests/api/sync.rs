//! Who is served, and with what.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::{Capability, Report, Snapshot, SnapshotLine};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::{Refused, Sidecar, bearer, report, token, token_of};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

fn given(name: &str, labels: Value) -> Value {
    let mut spec = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    spec["podSelector"] = json!({"matchLabels": labels});
    resource(name, &name.replace('-', "_"), spec)
}

fn red() -> Value {
    json!({"team": "red"})
}

async fn refused(world: &World, token: Option<&str>, pod: &Pod) -> Refused {
    Sidecar::connect(world, token, report(pod))
        .await
        .err()
        .expect("the operator refuses")
}

#[tokio::test]
async fn a_pod_gets_what_selects_it_in_its_own_namespace_and_nothing_else() {
    let here = World::new("sync-entitlement", false).await;
    let there = World::new("sync-elsewhere", false).await;
    for (world, value) in [(&here, "red-t0ken"), (&there, "foreign-t0ken")] {
        world.secret("token", "token", value).await;
    }
    here.apply(&given("for-red", red())).await.unwrap();
    here.apply(&given("for-blue", json!({"team": "blue"})))
        .await
        .unwrap();
    there.apply(&given("for-red", red())).await.unwrap();

    let pod = here.pod("litellm-0", red()).await;
    let mut sidecar = Sidecar::in_pod(&here, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "for_red").is_some())
        .await;
    assert_eq!(snapshot.servers.len(), 1);
    assert_eq!(bearer(&snapshot, "for_red").as_deref(), Some("red-t0ken"));
}

#[tokio::test]
async fn a_sidecar_that_reads_deltas_is_sent_what_changed_and_one_that_does_not_its_whole_state_again() {
    let world = World::new("sync-deltas", false).await;
    for name in ["files", "tools"] {
        world.secret(name, "token", "t0ken-1").await;
        let spec = json!({"bearerToken": {"secretKeyRef": {"name": name, "key": "token"}},
                          "podSelector": {"matchLabels": red()}});
        world.apply(&resource(name, name, spec)).await.unwrap();
    }
    let has =
        |snapshot: &Snapshot, server: &str, token: &str| bearer(snapshot, server).as_deref() == Some(token);
    let older_pod = world.pod("litellm-0", red()).await;
    let mut older = Sidecar::in_pod(&world, &older_pod).await;
    older
        .until(|snapshot| {
            ["files", "tools"]
                .iter()
                .all(|server| has(snapshot, server, "t0ken-1"))
        })
        .await;
    let pod = world.pod("litellm-1", red()).await;
    let identity = token(&world, AUDIENCE, Some(&pod)).await;
    let says = Report {
        capabilities: vec![Capability::Deltas],
        ..report(&pod)
    };
    let mut newer = Sidecar::connect(&world, Some(&identity), says).await.unwrap();
    let SnapshotLine::Whole(first) = newer.next_line().await else {
        panic!("a stream begins with the whole");
    };
    assert_eq!(first.servers.len(), 2);

    world.secret("tools", "token", "t0ken-2").await;
    let SnapshotLine::Delta(delta) = newer.next_line().await else {
        panic!("the whole came again");
    };
    assert_eq!(delta.base, first.revision);
    let [tools] = &delta.servers[..] else {
        panic!("only one has changed: {delta:?}");
    };
    assert_eq!(token_of(&tools.credential).as_deref(), Some("t0ken-2"));
    assert!(delta.removed.is_empty());
    let whole = older.until(|snapshot| has(snapshot, "tools", "t0ken-2")).await;
    assert!(
        has(&whole, "files", "t0ken-1"),
        "an older sidecar forgets what is not in the line"
    );

    world.delete::<McpServerAuth>("files").await;
    let SnapshotLine::Delta(delta) = newer.next_line().await else {
        panic!("the whole came again");
    };
    assert_eq!(delta.removed, ["files"]);
    assert!(delta.servers.is_empty());
}

/// The suite's operator asks after five seconds of silence.
#[tokio::test]
async fn a_sidecar_that_is_frozen_is_disconnected_and_one_that_answers_stays() {
    let world = World::new("sync-answers", false).await;
    let mut sidecars = Vec::new();
    for name in ["litellm-0", "litellm-1"] {
        let pod = world.pod(name, red()).await;
        let identity = token(&world, AUDIENCE, Some(&pod)).await;
        let says = Report {
            capabilities: vec![Capability::Answers],
            ..report(&pod)
        };
        let sidecar = Sidecar::connect(&world, Some(&identity), says).await;
        sidecars.push(sidecar.unwrap());
    }
    let [mut frozen, mut live] = <[Sidecar; 2]>::try_from(sidecars).ok().unwrap();
    let frozen = tokio::spawn(async move {
        assert!(frozen.asked().await, "it is asked first");
        // Its bytes are taken, as the kernel of a stopped process does it. It is asked nothing more, and its stream ends.
        frozen.asked().await
    });
    while !frozen.is_finished() {
        assert!(live.asked().await, "who answers stays");
        live.answer();
    }
    assert!(!frozen.await.unwrap(), "the operator ended the stream");
    assert!(live.asked().await, "the other one is served on");
}

#[tokio::test]
async fn changed_labels_change_what_a_running_pod_gets() {
    let world = World::new("sync-labels", false).await;
    world.secret("token", "token", "t0ken").await;
    world.apply(&given("for-red", red())).await.unwrap();
    let pod = world.pod("litellm-0", red()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "for_red").is_some())
        .await;
    let patch = json!({"metadata": {"labels": {"team": "blue"}}});
    let params = kube::api::PatchParams::default();
    world
        .api::<Pod>()
        .patch("litellm-0", &params, &kube::api::Patch::Merge(&patch))
        .await
        .unwrap();
    sidecar.until(|snapshot| snapshot.servers.is_empty()).await;
}

#[tokio::test]
async fn only_a_token_bound_to_the_very_pod_and_to_us_is_taken() {
    let world = World::new("sync-authentication", false).await;
    let pod = world.pod("litellm-0", red()).await;
    let other = world.pod("other-0", red()).await;

    let none = refused(&world, None, &pod).await;
    assert_eq!((none.status, &*none.problem.reason), (401, "NoToken"));

    let garbage = refused(&world, Some("garbage"), &pod).await;
    assert_eq!((garbage.status, &*garbage.problem.reason), (401, "InvalidToken"));

    let wrong_audience = token(&world, "https://kubernetes.default.svc", Some(&pod)).await;
    let wrong_audience = refused(&world, Some(&wrong_audience), &pod).await;
    assert_eq!(
        (wrong_audience.status, &*wrong_audience.problem.reason),
        (401, "WrongAudience")
    );
    assert!(
        wrong_audience.problem.message.contains(AUDIENCE),
        "{}",
        wrong_audience.problem.message
    );

    let unbound = token(&world, AUDIENCE, None).await;
    let unbound = refused(&world, Some(&unbound), &pod).await;
    assert_eq!((unbound.status, &*unbound.problem.reason), (403, "NotBoundToPod"));

    let of_other = token(&world, AUDIENCE, Some(&other)).await;
    let of_other = refused(&world, Some(&of_other), &pod).await;
    assert_eq!((of_other.status, &*of_other.problem.reason), (403, "OtherPod"));
    assert!(
        of_other.problem.message.contains("litellm-0") && of_other.problem.message.contains("other-0"),
        "{}",
        of_other.problem.message
    );

    let expired = std::fs::read_to_string(setting("MCPAUTH_TEST_EXPIRED_TOKEN")).unwrap();
    let expired = refused(&world, Some(expired.trim()), &pod).await;
    assert_eq!((expired.status, &*expired.problem.reason), (401, "InvalidToken"));
    assert!(
        expired.problem.message.contains("expired"),
        "{}",
        expired.problem.message
    );

    let gone = token(&world, AUDIENCE, Some(&other)).await;
    let last_words = report(&other);
    world.delete::<Pod>("other-0").await;
    let gone = Sidecar::connect(&world, Some(&gone), last_words)
        .await
        .err()
        .unwrap();
    assert_eq!((gone.status, &*gone.problem.reason), (401, "InvalidToken"));
}

#[tokio::test]
async fn a_forged_token_is_refused_by_the_keys_that_the_api_server_publishes() {
    let world = World::new("sync-forged", false).await;
    let pod = world.pod("litellm-0", red()).await;
    let genuine = token(&world, AUDIENCE, Some(&pod)).await;
    let another = token(&world, AUDIENCE, Some(&pod)).await;
    let (signed, _) = genuine.rsplit_once('.').unwrap();
    let (_, signature) = another.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{signature}");
    // The operator reads the keys when the first token comes, and has the API server review it until then.
    let answer = async || {
        let refused = refused(&world, Some(&forged), &pod).await;
        assert_eq!((refused.status, &*refused.problem.reason), (401, "InvalidToken"));
        refused.problem.message
    };
    until("it to be refused without a review", answer, |message| {
        message.contains("the key of this cluster that it names has not signed it")
    })
    .await;
    assert!(
        Sidecar::connect(&world, Some(&genuine), report(&pod))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_stream_of_a_deleted_pod_ends() {
    let world = World::new("sync-deleted-pod", false).await;
    world.secret("token", "token", "t0ken").await;
    world.apply(&given("for-red", red())).await.unwrap();
    let pod = world.pod("litellm-0", red()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "for_red").is_some())
        .await;
    world.delete::<Pod>("litellm-0").await;
    while sidecar.next().await.is_some() {}
}

#[tokio::test]
async fn a_deleted_lease_comes_back_and_sidecars_go_on() {
    let world = World::new("sync-deleted-lease", false).await;
    world.secret("token", "token", "first-t0ken").await;
    world.apply(&given("for-red", red())).await.unwrap();
    let pod = world.pod("litellm-0", red()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "for_red").is_some())
        .await;

    let leases: Api<Lease> =
        Api::namespaced(world.client.clone(), &setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"));
    let before = leases.get("mcp-auth-operator").await.unwrap();
    let holder = before.spec.unwrap().holder_identity;
    leases
        .delete("mcp-auth-operator", &DeleteParams::default())
        .await
        .unwrap();
    let look = async || leases.get_opt("mcp-auth-operator").await.unwrap();
    let again = until("the lease to be there again", look, Option::is_some).await;
    assert_eq!(again.unwrap().spec.unwrap().holder_identity, holder);
    world.secret("token", "token", "second-t0ken").await;
    sidecar
        .until(|snapshot| bearer(snapshot, "for_red").as_deref() == Some("second-t0ken"))
        .await;
}

#[tokio::test]
async fn all_pods_of_a_namespace_fingerprint_by_one_key_and_those_of_another_by_another() {
    let here = World::new("sync-fingerprints", false).await;
    let there = World::new("sync-fingerprints-elsewhere", false).await;
    let key = async |world: &World, pod: &str| {
        let pod = world.pod(pod, red()).await;
        let snapshot = Sidecar::in_pod(world, &pod).await.next().await.unwrap();
        let key = snapshot.fingerprint_key.expect("the operator hands one out");
        key.expose_secret().to_owned()
    };
    let first = key(&here, "litellm-0").await;
    assert!(first.len() >= 32);
    assert_eq!(first, key(&here, "litellm-1").await);
    assert_ne!(first, key(&there, "litellm-0").await);
}

#[tokio::test]
async fn sidecars_get_the_keys_that_the_issuer_of_users_tokens_signs_with() {
    let world = World::new("sync-audit-keys", false).await;
    world.secret("token", "token", "t0ken").await;
    let mut wanted = given("tools", red());
    let issuer = setting("MCPAUTH_TEST_OAUTH");
    wanted["spec"]["audit"] = json!({"user": {
        "header": "X-Id-Token",
        "claim": "sub",
        "jwks": {"issuer": issuer, "allowInsecureHttp": true},
    }});
    world.apply(&wanted).await.unwrap();
    let pod = world.pod("litellm-0", red()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let verification = |snapshot: &mcp_auth_protocol::sync::Snapshot| {
        let route = snapshot.servers.first()?.route.clone();
        route.audit?.user?.verification
    };
    let has_keys =
        |snapshot: &_| verification(snapshot).is_some_and(|verification| !verification.keys.is_empty());
    let snapshot = sidecar.until(has_keys).await;
    let verification = verification(&snapshot).unwrap();
    assert_eq!(verification.issuer, issuer);
    let user_token = mcp_auth_tests::oauth::signed_user_token("ada", "litellm", "urn:litellm").await;
    let id = mcp_auth_tests::jwt::header(&user_token)["kid"].clone();
    let ids = verification.keys.iter().map(|key| json!(key.kid));
    assert!(
        ids.into_iter().any(|known| known == id),
        "the token is signed with {id}"
    );
}
