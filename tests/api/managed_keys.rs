//! Keys that the operator makes: an authorization server takes them from where they are published, through rotations and
//! by every replica, and no secret is ever stored for the client.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use mcp_auth_crds::{ManagedKeyStatus, conditions, reasons};
use mcp_auth_protocol::sync::Snapshot;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, free_address};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use mcp_auth_tests::{jwt, keycloak, oauth, seen, setting};
use serde_json::{Value, json};

/// Of the operator that runs beside the tests.
const SECRET: &str = "mcp-auth-operator-keys";
const URL: &str = "https://keys.example.com";
/// Tokens are renewed every twenty seconds, ten before their end.
const LIFETIME_SECONDS: u64 = 30;

async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world
}

fn managed(server: Server, client: &str) -> Value {
    server.oauth2(
        client,
        json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"managed": {}}}),
    )
}

fn jwks_path(namespace: &str) -> String {
    format!("/clients/{namespace}/tools/jwks.json")
}

/// What is published of the resource `tools`, by the `kid`s.
async fn published(address: &str, namespace: &str) -> Vec<String> {
    let response = reqwest::get(format!("{address}{}", jwks_path(namespace))).await;
    let Ok(response) = response else { return Vec::new() };
    if !response.status().is_success() {
        return Vec::new();
    }
    assert_eq!(response.headers()["content-type"], "application/jwk-set+json");
    let set: Value = response.json().await.unwrap();
    let keys = set["keys"].as_array().unwrap();
    for key in keys {
        assert!(key.get("d").is_none() && key["use"] == "sig", "{key}");
    }
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

/// Changes the stored keys of the resource `tools`, as time would.
async fn change_stored(client: &Client, namespace: &str, change: impl Fn(&mut Value)) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"));
    // Other tests change their own keys in the same Secret.
    let written = async || {
        let mut secret = secrets.get(SECRET).await.unwrap();
        let data = secret.data.as_mut().unwrap().get_mut("keys.json").unwrap();
        let mut stored: Value = serde_json::from_slice(&data.0).unwrap();
        let keys = &mut stored[format!("{namespace}/tools")];
        for key in ["current", "next"] {
            seen::note(keys[key]["privateKey"].as_str().unwrap());
        }
        change(keys);
        data.0 = stored.to_string().into_bytes();
        secrets
            .replace(SECRET, &PostParams::default(), &secret)
            .await
            .is_ok()
    };
    until("the stored keys to be changed", written, |written| *written).await;
}

async fn managed_key(world: &World) -> ManagedKeyStatus {
    let status = async || world.status("tools").await.managed_key;
    until("a key", status, Option::is_some).await.unwrap()
}

/// The `kid`s of the assertions that the authorization server took, in their order.
async fn assertions(client: &str) -> Vec<String> {
    let requests = oauth::requests(client).await;
    for request in &requests {
        assert_eq!(request["event"], "issued", "{request}");
    }
    let key_ids = requests
        .iter()
        .map(|request| request["clientAssertion"]["kid"].as_str().unwrap().to_owned());
    key_ids.collect()
}

#[tokio::test]
async fn a_key_is_rotated_under_renewals_without_one_refused_request() {
    let id = "managed-keys";
    let world = world(id).await;
    let published_keys = Method::PublishedKeys {
        jwks_uri: format!("{URL}{}", jwks_path(id)),
        algorithm: "ES256",
    };
    let registration = Registration::new(id, published_keys);
    oauth::register_with(&registration, json!({"lifetime": LIFETIME_SECONDS})).await;
    world
        .apply(&resource("tools", "tools", managed(Server::OidcProvider, id)))
        .await
        .unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let first = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let before = managed_key(&world).await;
    assert_eq!(before.jwks_uri, format!("{URL}{}", jwks_path(id)));
    let address = setting("MCPAUTH_TEST_OPERATOR_KEYS");
    assert_eq!(
        published(&address, id).await,
        [&*before.key_id, &*before.next_key_id],
        "the next key is published while this one signs"
    );
    assert!(assertions(id).await.iter().all(|key_id| *key_id == before.key_id));

    // A month later.
    change_stored(&world.client, id, |keys| {
        for key in ["current", "next"] {
            keys[key]["since"] = json!("2020-01-01T00:00:00Z");
        }
    })
    .await;
    let signed_by_next = |key_ids: &Vec<String>| {
        key_ids
            .iter()
            .filter(|key_id| **key_id == before.next_key_id)
            .count()
            >= 2
    };
    let key_ids = until(
        "renewals by the next key",
        async || assertions(id).await,
        signed_by_next,
    )
    .await;
    let switched = key_ids
        .iter()
        .position(|key_id| *key_id == before.next_key_id)
        .unwrap();
    assert!(key_ids[..switched].iter().all(|key_id| *key_id == before.key_id));
    assert!(
        key_ids[switched..]
            .iter()
            .all(|key_id| *key_id == before.next_key_id)
    );
    let rotated =
        |key: &Option<ManagedKeyStatus>| key.as_ref().is_some_and(|key| key.key_id == before.next_key_id);
    let status = async || world.status("tools").await.managed_key;
    let after = until("the status to tell of it", status, rotated).await.unwrap();
    assert_eq!(
        published(&address, id).await,
        [&*after.key_id, &*after.next_key_id, &*before.key_id],
        "the old key is published until its last assertion is over"
    );
    let old = bearer(&first, "tools");
    sidecar
        .until(|snapshot: &Snapshot| {
            let token = bearer(snapshot, "tools");
            assert!(token.is_some(), "there is a token at every moment");
            token != old
        })
        .await;

    // An hour later.
    change_stored(&world.client, id, |keys| {
        keys["retired"][0]["until"] = json!("2020-01-01T00:00:00Z");
    })
    .await;
    let current = [after.key_id, after.next_key_id];
    let keys = async || published(&address, id).await;
    until("the old key to be gone", keys, |key_ids| *key_ids == current).await;

    world.delete::<mcp_auth_crds::McpServerAuth>("tools").await;
    let keys = async || published(&address, id).await;
    until(
        "nothing to be published of a client that is gone",
        keys,
        Vec::is_empty,
    )
    .await;
}

/// RS256 is what Keycloak assumes of a client, and Microsoft Entra and others take nothing else.
#[tokio::test]
async fn keys_of_rsa_and_p_521_are_made_and_taken_from_where_they_are_published() {
    if !keycloak::is_there() {
        return;
    }
    for (algorithm, key_type, bytes) in [("RS256", "RSA", ("n", 256)), ("ES512", "EC", ("x", 66))] {
        let id = format!("managed-{}", algorithm.to_lowercase());
        let world = world(&id).await;
        let published_keys = Method::PublishedKeys {
            jwks_uri: format!("{}{}", setting("MCPAUTH_TEST_OPERATOR_KEYS"), jwks_path(&id)),
            algorithm,
        };
        let registration = Registration::new(&id, published_keys);
        Server::Keycloak.register(&registration).await;
        let mut tools = resource("tools", "tools", managed(Server::Keycloak, &id));
        tools["spec"]["oauth2"]["clientAuthentication"]["privateKeyJwt"]["managed"]["algorithm"] =
            json!(algorithm);
        world.apply(&tools).await.unwrap();
        world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        let pod = world
            .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        let mut sidecar = Sidecar::in_pod(&world, &pod).await;
        let snapshot = sidecar
            .until(|snapshot| bearer(snapshot, "tools").is_some())
            .await;
        let claims = jwt::claims(&bearer(&snapshot, "tools").unwrap());
        assert!(jwt::is_for(&claims, &registration.resource), "{claims}");
        let granted = Server::Keycloak.granted(&id).await;
        assert!(
            !granted.is_empty() && granted.iter().all(|it| it.method == "client-jwt"),
            "{granted:?}"
        );

        let address = setting("MCPAUTH_TEST_OPERATOR_KEYS");
        let set = reqwest::get(format!("{address}{}", jwks_path(&id)))
            .await
            .unwrap();
        let set: Value = set.json().await.unwrap();
        let keys = set["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2, "the one that signs and the next");
        for key in keys {
            assert_eq!((&key["kty"], &key["alg"]), (&json!(key_type), &json!(algorithm)));
            let (member, length) = bytes;
            let number = URL_SAFE_NO_PAD.decode(key[member].as_str().unwrap()).unwrap();
            assert_eq!(number.len(), length, "{member}");
            let private = ["d", "p", "q", "dp", "dq", "qi"];
            assert!(
                private.iter().all(|member| key.get(*member).is_none()),
                "{algorithm}"
            );
        }
        // What is stored is a secret that the test's search has to know.
        change_stored(&world.client, &id, |_| ()).await;
    }
}

/// The server reads the document at the client's identifier, and the keys that this names: nobody registered the client.
#[tokio::test]
async fn a_client_that_nobody_registered_is_known_by_its_metadata_document() {
    let namespace = "managed-metadata";
    let world = world(namespace).await;
    let mut tools = resource("tools", "tools", managed(Server::OidcProvider, "unused"));
    tools["spec"]["oauth2"]
        .as_object_mut()
        .unwrap()
        .remove("clientId");
    merge(
        &mut tools,
        json!({"spec": {"oauth2": {"clientAuthentication": {"privateKeyJwt": {
            "managed": {"algorithm": "EdDSA"},
        }}}}}),
    );
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let client_id = format!("{URL}/clients/{namespace}/tools/client.json");
    assert_eq!(
        managed_key(&world).await.client_id_metadata.as_ref(),
        Some(&client_id)
    );
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let claims = jwt::claims(&bearer(&snapshot, "tools").unwrap());
    assert_eq!(claims["client_id"], client_id);
}

#[tokio::test]
async fn every_replica_publishes_the_keys_and_the_next_leader_goes_on_with_them() {
    let namespace = "managed-replicas";
    let world = world(namespace).await;
    let operator = Operator {
        namespace: namespace.into(),
        watched_namespace: namespace.into(),
        lease: "managed-replicas".into(),
        certificate_secret: "managed-replicas-tls".into(),
        url: None,
        program: None,
        arguments: vec![ANY_ADDRESS.into(), "--managed-keys-secret=keys".into()],
    };
    let mut replicas = Vec::new();
    for name in ["first", "second"] {
        let address = free_address().await;
        let mut operator = operator.clone();
        operator
            .arguments
            .push(format!("--listen-managed-keys={address}"));
        replicas.push((
            operator.start(name, None, None).await,
            format!("http://{address}"),
        ));
    }
    replicas[0].0.until_leads().await;
    world
        .apply(&resource(
            "tools",
            "tools",
            managed(Server::OidcProvider, namespace),
        ))
        .await
        .unwrap();
    let of = async |index: usize| published(&replicas[index].1, namespace).await;
    let keys = until("keys of the leader", async || of(0).await, |keys| keys.len() == 2).await;
    until(
        "the same of its follower",
        async || of(1).await,
        |found| *found == keys,
    )
    .await;

    replicas[0].0.kill().await;
    replicas[1].0.until_leads().await;
    assert_eq!(published(&replicas[1].1, namespace).await, keys);
    // What the new leader does with a second resource shows that it leads the keys too.
    let mut other = resource("other", "other", managed(Server::OidcProvider, namespace));
    other["spec"]["podSelector"] = json!({"matchLabels": {"app": "other"}});
    world.apply(&other).await.unwrap();
    let secrets: Api<Secret> = world.api();
    let stored = async || {
        let secret = secrets.get("keys").await.unwrap();
        let stored: Value = serde_json::from_slice(&secret.data.unwrap()["keys.json"].0).unwrap();
        stored.as_object().unwrap().len()
    };
    until("the key of another resource", stored, |clients| *clients == 2).await;
    assert_eq!(published(&replicas[1].1, namespace).await, keys);
}
