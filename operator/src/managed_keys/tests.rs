use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures::{StreamExt, stream};
use kube::runtime::watcher::{self, Event};
use mcp_auth_credentials::Changes;
use serde_json::{Value, json};

use super::key_set::{Wanted, plan};
use super::publish::{Publisher, key_set, metadata};
use super::*;
use crate::resources::{ResourceEvent, Resources};

const URL: &str = "https://keys.company.com/mcp";

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn resource(authentication: Value) -> McpServerAuth {
    let mut oauth2 = json!({"issuer": "https://sso.company.com", "scopes": ["tools:call"]});
    oauth2["clientAuthentication"] = authentication;
    let server = json!({"name": "tools", "url": "https://tools.company.com/mcp"});
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm", "generation": 1},
        "spec": {"server": server, "oauth2": oauth2},
    }))
    .unwrap()
}

fn managed() -> McpServerAuth {
    resource(json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"managed": {}}}))
}

fn config(url: Option<&str>) -> Config {
    Config {
        namespace: "mcp-auth-system".into(),
        secret: "keys".into(),
        url: url.map(|url| url.parse().unwrap()),
    }
}

fn managed_keys(url: Option<&str>, clock: &Clock) -> ManagedKeys {
    // An API server that has nothing: what the watch would show is put there by hand.
    let client = Client::new(Router::new(), "default");
    ManagedKeys::new(&client, Some(config(url)), clock.clone()).0
}

/// The keys of the one resource as they were made at this time.
fn made(resource: &McpServerAuth, at: Timestamp) -> KeySets {
    let wanted: Wanted = key_set::wanted(resource).unwrap();
    let wanted = BTreeMap::from([(ResourceRef::from(resource), wanted)]);
    plan(&KeySets::new(), &wanted, |_| true, at).changed.unwrap()
}

async fn listed(all: impl Iterator<Item = McpServerAuth>) -> Resources {
    let shown = all.map(Event::InitApply).chain([Event::InitDone]);
    let events: Vec<_> = [Event::Init]
        .into_iter()
        .chain(shown)
        .map(Ok::<_, watcher::Error>)
        .collect();
    let events = stream::iter(events).chain(stream::pending());
    let (resources, mut watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], Changes::default());
    while watch.next().await != ResourceEvent::Listed {}
    resources
}

async fn publisher(keys: &ManagedKeys, resource: McpServerAuth) -> Publisher {
    Publisher {
        keys: keys.clone(),
        resources: listed([resource].into_iter()).await,
    }
}

fn client(name: &str) -> Path<(String, String)> {
    Path(("llm".to_owned(), name.to_owned()))
}

async fn json_of(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn an_operator_that_makes_no_keys_says_what_turns_that_on() {
    let client = Client::new(Router::new(), "default");
    let (keys, _changed) = ManagedKeys::new(&client, None, Clock::system());
    let error = keys.find(&managed()).unwrap().unwrap_err();
    assert_eq!(error.reason(), "InvalidSpec");
    for part in ["privateKeyJwt.managed", "managedKeys.enabled", "keyRef"] {
        assert!(error.message().contains(part), "{}", error.message());
    }
    assert!(keys.find(&resource(json!({"method": "None"}))).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_first_key_signs_once_every_replica_had_time_to_publish_it() {
    let clock = Clock::starting_at(now());
    let keys = managed_keys(Some(URL), &clock);
    let pending = |keys: &ManagedKeys| keys.find(&managed()).unwrap().unwrap_err().is_pending();
    assert!(pending(&keys), "the Secret has not been read");
    let sets = made(&managed(), now());
    let first = sets.values().next().unwrap().current.id().to_owned();
    keys.replace(sets);
    assert!(pending(&keys), "it has just been made");
    tokio::time::advance(Duration::from_secs(5)).await;
    let found = keys.find(&managed()).unwrap().unwrap();
    assert_eq!(found.key.key_id(), Some(first.as_str()));
    assert_eq!(
        found.client_id_metadata.as_deref(),
        Some("https://keys.company.com/mcp/clients/llm/tools/client.json")
    );
}

#[tokio::test]
async fn a_key_that_a_clock_made_that_was_ahead_signs() {
    let keys = managed_keys(None, &Clock::starting_at(now()));
    let sets = made(&managed(), now() + Duration::from_secs(24 * 3600));
    keys.replace(sets);
    assert!(keys.find(&managed()).unwrap().is_ok());
}

#[tokio::test]
async fn a_secret_that_cannot_be_written_is_told_to_those_who_wait_for_a_key() {
    let keys = managed_keys(None, &Clock::system());
    keys.fail("the Role lacks the right".into(), []);
    let error = keys.find(&managed()).unwrap().unwrap_err();
    assert_eq!(error.reason(), "Forbidden");
    assert!(error.message().contains("the Role lacks the right"));
}

#[tokio::test]
async fn a_resource_that_the_secret_has_no_room_for_is_told_the_way_out_until_it_has() {
    let client = Client::new(Router::new(), "default");
    let (keys, mut changed) = ManagedKeys::new(&client, Some(config(None)), Clock::system());
    let tools = ResourceRef::from(&managed());
    keys.refuse(BTreeSet::from([tools.clone()]));
    assert_eq!(changed.try_recv(), Ok(tools.clone()));
    let error = keys.find(&managed()).unwrap().unwrap_err();
    assert_eq!(error.reason(), "LimitExceeded");
    for part in ["privateKeyJwt.managed", "full", "keyRef", "delete"] {
        assert!(error.message().contains(part), "{}", error.message());
    }
    keys.refuse(BTreeSet::new());
    assert_eq!(changed.try_recv(), Ok(tools));
    assert!(keys.find(&managed()).unwrap().unwrap_err().is_pending());
}

#[tokio::test]
async fn a_resource_that_is_not_taken_up_gets_no_first_key_and_keeps_the_one_it_has() {
    let keys = managed_keys(None, &Clock::starting_at(now()));
    let Publisher { resources, .. } = publisher(&keys, managed()).await;
    assert!(keys.wanted(&resources, |_| false).await.is_empty());
    assert_eq!(keys.wanted(&resources, |_| true).await.len(), 1);
    keys.replace(made(&managed(), now()));
    assert_eq!(keys.wanted(&resources, |_| false).await.len(), 1);
}

#[tokio::test]
async fn a_look_at_hundreds_of_resources_leaves_turns_to_what_else_the_leader_does() {
    let keys = managed_keys(None, &Clock::starting_at(now()));
    let named = |number: usize| {
        let mut resource = managed();
        resource.metadata.name = Some(format!("r{number}"));
        resource
    };
    let listed = listed((0..400).map(named)).await;
    let asked = std::cell::Cell::new(0);
    let wanted = keys.wanted(&listed, |_| {
        asked.set(asked.get() + 1);
        true
    });
    let most_at_once = std::cell::Cell::new(0);
    let others = async {
        let mut before = 0;
        loop {
            most_at_once.set(most_at_once.get().max(asked.get() - before));
            before = asked.get();
            tokio::task::yield_now().await;
        }
    };
    let wanted = tokio::select! {
        biased;
        wanted = wanted => wanted,
        () = others => unreachable!("they go on"),
    };
    assert_eq!(wanted.len(), 400);
    assert!(
        (1..=16).contains(&most_at_once.get()),
        "{} at once",
        most_at_once.get()
    );
}

/// Watches and keeps a Secret that holds no keys until it has been replaced, which is returned.
async fn replaced_secret(keys_before: Option<KeySets>) -> (ManagedKeys, Secret) {
    let spoilt: Secret = serde_json::from_value(json!({"metadata": {"name": "keys"}})).unwrap();
    let (written, mut replaced) = mpsc::unbounded_channel();
    let answer = spoilt.clone();
    let api_server = Router::new().fallback(async move |method: Method, body: Bytes| {
        if method == Method::PUT {
            let secret: Secret = serde_json::from_slice(&body).unwrap();
            written.send(secret).unwrap();
        }
        serde_json::to_string(&answer).unwrap()
    });
    let client = Client::new(api_server, "default");
    let (keys, _changed) = ManagedKeys::new(&client, Some(config(None)), Clock::starting_at(now()));
    if let Some(before) = keys_before {
        keys.replace(before);
    }
    keys.take_over(&spoilt, "keys");
    let Publisher { resources, .. } = publisher(&keys, managed()).await;
    let kept = keys.clone();
    let secret = tokio::select! {
        never = kept.keep(&resources, || |_: &McpServerAuth| true) => match never {},
        // The bound is for a test that would hang.
        secret = tokio::time::timeout(Duration::from_secs(300), replaced.recv()) => secret.unwrap().unwrap(),
    };
    (keys, secret)
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_empty_at_start_is_told_and_written_with_new_keys() {
    let (keys, secret) = replaced_secret(None).await;
    let error = keys.find(&managed()).unwrap().unwrap_err();
    assert!(error.message().contains("keys.json"), "{}", error.message());
    keys.take_over(&secret, "keys");
    assert!(keys.in_status(&managed()).is_some());
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(keys.find(&managed()).unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_spoilt_later_is_written_with_the_keys_that_are_remembered() {
    let before = made(&managed(), now());
    let (_, secret) = replaced_secret(Some(before.clone())).await;
    assert!(stored::read(&secret).unwrap() == before);
}

#[tokio::test]
async fn what_is_published_is_the_public_half_of_both_keys_and_the_clients_metadata() {
    let keys = managed_keys(Some(URL), &Clock::starting_at(now()));
    let publisher = publisher(&keys, managed()).await;
    let unread = key_set(State(publisher.clone()), client("tools")).await;
    assert_eq!(unread.status(), StatusCode::SERVICE_UNAVAILABLE);

    let sets = made(&managed(), now());
    let own = sets.values().next().unwrap().clone();
    keys.replace(sets);
    let published = json_of(key_set(State(publisher.clone()), client("tools")).await).await;
    let ids: Vec<_> = published["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|jwk| &jwk["kid"])
        .collect();
    assert_eq!(ids, [own.current.id(), own.next.id()]);
    for jwk in published["keys"].as_array().unwrap() {
        let members: Vec<_> = jwk.as_object().unwrap().keys().collect();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    }

    let document = json_of(metadata(State(publisher.clone()), client("tools")).await).await;
    assert_eq!(
        document,
        json!({
            "client_id": "https://keys.company.com/mcp/clients/llm/tools/client.json",
            "client_name": "mcp-auth llm/tools",
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "jwks_uri": "https://keys.company.com/mcp/clients/llm/tools/jwks.json",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "redirect_uris": [],
            "scope": "tools:call",
        })
    );
    for response in [
        key_set(State(publisher.clone()), client("other")).await,
        metadata(State(publisher), client("other")).await,
    ] {
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn another_algorithm_is_in_the_metadata_from_the_moment_that_its_key_signs() {
    let keys = managed_keys(Some(URL), &Clock::starting_at(now()));
    let before = made(&managed(), now());
    let managed = json!({"algorithm": "EdDSA"});
    let changed = resource(json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"managed": managed}}));
    let publisher = publisher(&keys, changed.clone()).await;
    for (sets, algorithm) in [(before, "ES256"), (made(&changed, now()), "EdDSA")] {
        keys.replace(sets);
        let document = json_of(metadata(State(publisher.clone()), client("tools")).await).await;
        assert_eq!(document["token_endpoint_auth_signing_alg"], algorithm);
    }
}

#[tokio::test]
async fn without_an_https_url_there_is_no_metadata_document_and_the_status_says_the_path() {
    for url in [None, Some("http://keys.company.com")] {
        let clock = Clock::starting_at(now());
        let keys = managed_keys(url, &clock);
        keys.replace(made(&managed(), now()));
        let publisher = publisher(&keys, managed()).await;
        let response = metadata(State(publisher), client("tools")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let status = keys.in_status(&managed()).unwrap();
        let path = "/clients/llm/tools/jwks.json";
        assert_eq!(status.jwks_uri, format!("{}{path}", url.unwrap_or_default()));
        assert_eq!(status.client_id_metadata, None);
        assert_ne!(status.key_id, status.next_key_id);
    }
}

#[test]
fn the_secret_holds_everything_and_what_is_spoilt_in_it_costs_one_client_alone() {
    let keys = made(&managed(), now());
    let secret = |data| Secret {
        data: Some(data),
        ..Secret::default()
    };
    let data = stored::data(&keys);
    assert!(stored::read(&secret(data.clone())).unwrap() == keys);

    let mut text: Value = serde_json::from_slice(&data[stored::DATA_KEY].0).unwrap();
    text["llm/spoilt"] = json!({"current": "s3cret"});
    text["no-namespace"] = text["llm/tools"].clone();
    let spoilt = k8s_openapi::ByteString(text.to_string().into_bytes());
    let spoilt = BTreeMap::from([(stored::DATA_KEY.to_owned(), spoilt)]);
    assert!(stored::read(&secret(spoilt)).unwrap() == keys);

    let broken = BTreeMap::from([(
        stored::DATA_KEY.to_owned(),
        k8s_openapi::ByteString(b"{s3cret".to_vec()),
    )]);
    let error = stored::read(&secret(broken)).err().unwrap().to_string();
    assert!(!error.contains("s3cret"), "{error}");
    assert_eq!(
        stored::read(&Secret::default()).err(),
        Some(stored::StoredError::NoKeys)
    );
}
