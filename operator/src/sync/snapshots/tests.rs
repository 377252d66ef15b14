use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::watcher::Event;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{CredentialIdentity, CredentialState, ResourceRef, ServerConnection};
use mcp_auth_oauth::{AllowedAddresses, Destinations};
use mcp_auth_protocol::bounds::MAX_SNAPSHOT_BYTES;
use mcp_auth_protocol::sync::{Credential, ServerAddresses};
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::resources::ResourceEvent;

struct Scene {
    snapshots: Snapshots,
    credentials: Credentials,
    changes: Changes,
}

fn resource(name: &str, team: Option<&str>) -> McpServerAuth {
    let mut labels = json!({"app": "litellm"});
    if let Some(team) = team {
        labels["team"] = team.into();
    }
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "apps"},
        "spec": {
            "server": {"name": name, "url": format!("https://{name}.example.com/mcp")},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            "podSelector": {"matchLabels": labels},
        },
    }))
    .unwrap()
}

/// With these resources in namespace `apps`.
async fn scene(resources: Vec<McpServerAuth>) -> Scene {
    scene_with(resources, AdministratorPolicy::default()).await
}

async fn scene_with(resources: Vec<McpServerAuth>, policy: AdministratorPolicy) -> Scene {
    let changes = Changes::default();
    let events = [Event::Init]
        .into_iter()
        .chain(resources.into_iter().map(Event::InitApply))
        .chain([Event::InitDone])
        .map(Ok);
    let events = futures::stream::iter(events).chain(futures::stream::pending());
    let (resources, mut watch) = Resources::from_watches(vec![None], vec![events.boxed()], changes.clone());
    while watch.next().await != ResourceEvent::Listed {}
    let credentials = Credentials::new(changes.clone(), mpsc::unbounded_channel().0);
    let snapshots = Snapshots::new(
        resources,
        credentials.clone(),
        Certificates::self_made(),
        changes.clone(),
        policy,
    );
    Scene {
        snapshots,
        credentials,
        changes,
    }
}

impl Scene {
    fn publish(&self, resource: &McpServerAuth, token: &str) {
        self.publish_with(resource, token, ServerConnection::default());
    }

    fn publish_with(&self, resource: &McpServerAuth, token: &str, connection: ServerConnection) {
        let credential = Credential::Bearer {
            id: "1".into(),
            token: token.into(),
            proof_key: None,
            expires_at: None,
        };
        let state = CredentialState {
            credential,
            connection,
            ..CredentialState::pending(CredentialIdentity::for_resource(resource))
        };
        self.credentials.publish(&ResourceRef::from(resource), state);
    }

    fn group(&self, team: &str) -> Arc<Group> {
        let labels = [("app", "litellm"), ("team", team)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.snapshots.group("apps", &labels.into())
    }
}

impl Scene {
    fn servers_in_use(&self) -> HashMap<String, Arc<SerialisedServer>> {
        let shared = self.snapshots.0.shared.lock()["apps"].clone();
        let shared = shared.lock();
        let in_use =
            |(name, shared): (&String, &SharedServer)| Some((name.clone(), shared.server.upgrade()?));
        shared.servers.iter().filter_map(in_use).collect()
    }
}

fn read(snapshot: &SerialisedSnapshot) -> Snapshot {
    let line = snapshot.line(None);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    serde_json::from_slice(&line).unwrap()
}

fn servers(snapshot: &SerialisedSnapshot) -> Vec<String> {
    let servers = read(snapshot).servers.into_iter();
    servers.map(|server| server.route.server).collect()
}

#[tokio::test]
async fn pods_with_the_same_labels_share_one_line_and_others_have_their_own() {
    let scene = scene(vec![resource("tools", None), resource("files", Some("red"))]).await;
    let groups = [scene.group("red"), scene.group("red"), scene.group("blue")];
    let [first, second, other] = groups.each_ref().map(|group| scene.snapshots.snapshot(group));
    assert!(Arc::ptr_eq(&first, &second), "it is kept once");
    assert_eq!(servers(&first), ["files", "tools"]);
    assert_eq!(servers(&other), ["tools"]);
    let read = read(&first);
    assert_eq!(read.revision, first.revision);
    let age = Timestamp::now().as_second() - read.sent_at.unwrap();
    assert!((0..60).contains(&age), "it says when it was sent: {age}");
}

/// As the pods of a StatefulSet, each with a label of its own.
#[tokio::test]
async fn pods_with_labels_of_their_own_share_what_they_are_all_entitled_to() {
    let (tools, files) = (resource("tools", None), resource("files", Some("red")));
    let scene = scene(vec![tools.clone(), files]).await;
    let groups: Vec<_> = (0..20)
        .map(|number| scene.group(&format!("pod-{number}")))
        .collect();
    let red = scene.group("red");
    for token in ["t0ken-1", "t0ken-2"] {
        scene.publish(&tools, token);
        let of_red = scene.snapshots.snapshot(&red);
        let snapshots: Vec<_> = groups
            .iter()
            .map(|group| scene.snapshots.snapshot(group))
            .collect();
        for snapshot in &snapshots {
            assert!(
                Arc::ptr_eq(snapshot, &snapshots[0]),
                "one line is kept for all of them"
            );
        }
        assert_eq!(servers(&snapshots[0]), ["tools"]);
        assert_eq!(servers(&of_red), ["files", "tools"], "which is entitled to more");
        let token = token.as_bytes();
        assert!(
            snapshots[0]
                .line(None)
                .windows(token.len())
                .any(|part| part == token)
        );
    }
    assert_eq!(scene.servers_in_use().len(), 2, "of earlier ones nothing is kept");
}

#[tokio::test]
async fn a_change_makes_a_new_snapshot_and_an_announcement_of_nothing_does_not() {
    let tools = resource("tools", None);
    let scene = scene(vec![tools.clone()]).await;
    let group = scene.group("red");
    let before = scene.snapshots.snapshot(&group);
    scene.changes.announce("apps");
    let same = scene.snapshots.snapshot(&group);
    assert_eq!(same.revision, before.revision, "nobody is sent the same again");

    scene.publish(&tools, "t0ken-1");
    let after = scene.snapshots.snapshot(&group);
    assert_ne!(after.revision, before.revision);
    assert!(after.line(None).windows(7).any(|part| part == b"t0ken-1"));
}

#[tokio::test]
async fn a_group_that_no_stream_uses_is_forgotten_with_its_tokens() {
    let scene = scene(vec![resource("tools", None)]).await;
    let (first, second) = (scene.group("red"), scene.group("red"));
    let known = || scene.snapshots.0.groups.lock().len();
    scene.snapshots.snapshot(&first);
    drop(first);
    assert_eq!(known(), 1);
    drop(second);
    assert_eq!(known(), 0);
    assert!(scene.snapshots.0.shared.lock().is_empty());
}

#[tokio::test]
async fn a_renewed_token_makes_its_own_server_anew_and_leaves_the_others_as_they_were() {
    let (tools, files) = (resource("tools", None), resource("files", None));
    let scene = scene(vec![tools.clone(), files.clone()]).await;
    let group = scene.group("red");
    let made = || {
        scene.snapshots.snapshot(&group);
        scene.servers_in_use()
    };
    scene.publish(&tools, "t0ken-1");
    let before = made();
    scene.publish(&tools, "t0ken-2");
    let after = made();
    let is_kept = |name: &str| Arc::ptr_eq(&before[name], &after[name]);
    assert_eq!((is_kept("files"), is_kept("tools")), (true, false));
    let line = scene.snapshots.snapshot(&group).line(None);
    assert!(line.windows(7).any(|part| part == b"t0ken-2"));

    // What was withdrawn is not what was published before.
    scene.credentials.withdraw(&ResourceRef::from(&tools));
    let withdrawn = scene.snapshots.snapshot(&group).line(None);
    assert!(!withdrawn.windows(6).any(|part| part == b"t0ken-"));
}

#[tokio::test]
async fn a_sidecar_is_told_at_which_addresses_the_administrator_allows_a_server() {
    let policy = AdministratorPolicy {
        mcp_servers: Destinations {
            addresses: AllowedAddresses::Public,
            ..Destinations::default()
        },
        ..AdministratorPolicy::default()
    };
    for (policy, expected) in [
        (AdministratorPolicy::default(), ServerAddresses::Any),
        (policy, ServerAddresses::Public),
    ] {
        let scene = scene_with(vec![resource("tools", None)], policy).await;
        let snapshot = scene.snapshots.snapshot(&scene.group("blue"));
        assert_eq!(read(&snapshot).servers[0].addresses, Some(expected));
    }
}

/// A company's bundle with the public authorities in it, as OpenShift and trust-manager make it.
fn bundle_of_a_company() -> String {
    let line = format!("{}\n", "A".repeat(64));
    format!(
        "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n",
        line.repeat(3400)
    )
}

#[tokio::test]
async fn of_servers_that_one_line_has_no_room_for_the_youngest_are_left_out_and_named() {
    let mut resources: Vec<_> = (0..80)
        .map(|number| resource(&format!("tools-{number:02}"), None))
        .collect();
    for (number, resource) in resources.iter_mut().enumerate() {
        // The first by name are the youngest.
        let created: Timestamp = format!("2026-01-01T00:{:02}:00Z", (80 - number) % 60)
            .parse()
            .unwrap();
        let created = created + jiff::SignedDuration::from_hours(((80 - number) / 60) as i64);
        resource.metadata.creation_timestamp = Some(Time(created));
    }
    let mut small = resource("unlike", None);
    small.metadata.creation_timestamp = Some(Time("2027-01-01T00:00:00Z".parse().unwrap()));
    let scene = scene(resources.iter().cloned().chain([small.clone()]).collect()).await;
    for resource in &resources {
        let connection = ServerConnection {
            ca_bundle: Some(bundle_of_a_company().into()),
            ..ServerConnection::default()
        };
        scene.publish_with(resource, "t", connection);
    }
    scene.publish(&small, "t");

    let snapshot = scene.snapshots.snapshot(&scene.group("red"));
    let line = snapshot.line(None);
    assert!(
        line.len() <= MAX_SNAPSHOT_BYTES + 1,
        "a sidecar refuses {} bytes",
        line.len()
    );
    let given = servers(&snapshot);
    assert!(given.len() > 70, "{} are given", given.len());
    assert!(given.contains(&"unlike".to_owned()), "it fits beside the others");
    let left_out: Vec<_> = resources
        .iter()
        .map(|resource| resource.spec.server.name.clone())
        .collect();
    let (left_out, kept) = left_out.split_at(81 - given.len());
    assert!(
        left_out.iter().all(|server| !given.contains(server)),
        "the youngest go"
    );
    assert!(
        kept.iter().all(|server| given.contains(server)),
        "the oldest stay"
    );

    let Inner {
        resources: known,
        credentials,
        policy,
        ..
    } = &*scene.snapshots.0;
    let lengths = ServerLengths::new(known.clone(), credentials.clone(), policy.clone());
    let group = scene.group("red");
    let is_told = |resource: &McpServerAuth| lengths.left_out(resource, [&group.key.1].into_iter());
    for resource in resources.iter().chain([&small]) {
        let name = &resource.spec.server.name;
        assert_eq!(is_told(resource).is_some(), left_out.contains(name), "{name}");
    }
    let told = is_told(&resources[0]).unwrap();
    assert_eq!(told.servers, 81);
    assert!(
        told.total_bytes > MAX_SNAPSHOT_BYTES && told.bytes > 220_000,
        "{told:?}"
    );

    // One that goes makes room.
    for resource in &resources[40..] {
        scene.publish(resource, "t");
    }
    assert_eq!(servers(&scene.snapshots.snapshot(&group)).len(), 81);
    assert_eq!(is_told(&resources[0]), None);
}
