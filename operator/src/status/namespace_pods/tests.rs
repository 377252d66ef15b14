//! Whatever happens to pods and sidecars, statuses by views and classes are those that a walk of all pods makes.

mod happenings;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use mcp_auth_crds::McpServerAuthStatus;
use mcp_auth_credentials::{Issuance, TokenInUse, TokenSnapshot};
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use happenings::{ANNOTATIONS, Happening, LABELS, OWNERS, ReportOf, SELECTORS, happening, report};

use super::*;
use crate::namespaces::NamespaceInjection;
use crate::sidecars::{ForwardedSidecar, Sidecar, SidecarEntry};
use crate::status::{InjectionFacts, StatusInputs, fleet, status};

const NAMESPACE: &str = "apps";
const SERVERS: [&str; 2] = ["tools", "files"];

struct World {
    began: Instant,
    pods: BTreeMap<usize, Arc<WatchedPod>>,
    revision: u64,
    entries: BTreeMap<usize, SidecarEntry>,
    sidecars: Sidecars,
    views: NamespaceViews,
    /// With what was told of them last.
    resources: Vec<McpServerAuth>,
    webhook_called: bool,
}

fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

impl World {
    fn new() -> Self {
        let resource = |server: &str, selector: &[(&str, &str)]| {
            let labels: BTreeMap<_, _> = selector.iter().copied().collect();
            let resource = json!({
                "apiVersion": "mcpauth.dev/v1alpha1",
                "kind": "McpServerAuth",
                "metadata": {"name": server, "namespace": NAMESPACE, "generation": 1},
                "spec": {
                    "server": {"name": server, "url": "https://tools.example.com/mcp"},
                    "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                    "podSelector": {"matchLabels": labels},
                },
            });
            serde_json::from_value(resource).unwrap()
        };
        let of_selector = |selector: &[(&str, &str)]| SERVERS.map(|server| resource(server, selector));
        Self {
            began: Instant::now(),
            pods: BTreeMap::new(),
            revision: 1,
            entries: BTreeMap::new(),
            sidecars: Sidecars::new().0,
            views: NamespaceViews::default(),
            resources: SELECTORS.into_iter().flat_map(of_selector).collect(),
            webhook_called: false,
        }
    }

    fn now(&self) -> Timestamp {
        start() + SignedDuration::try_from(self.began.elapsed()).unwrap()
    }

    async fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Created {
                place,
                labels,
                annotations,
                owner,
                age,
            } => {
                self.revision += 1;
                let created = self.now() - SignedDuration::from_secs(age);
                let metadata = json!({
                    "name": format!("litellm-{place}"), "uid": format!("uid-{}", self.revision),
                    "creationTimestamp": created.to_string(),
                    "labels": LABELS[labels].iter().copied().collect::<BTreeMap<_, _>>(),
                    "annotations": ANNOTATIONS[annotations].iter().copied().collect::<BTreeMap<_, _>>(),
                    "ownerReferences": OWNERS[owner].iter().map(|(version, kind)| json!({
                        "apiVersion": version, "kind": kind, "name": "litellm", "controller": true,
                        "uid": format!("{kind}-{labels}"),
                    })).collect::<Vec<_>>(),
                });
                let pod = serde_json::from_value::<WatchedPod>(json!({"metadata": metadata})).unwrap();
                self.entries.remove(&place);
                self.pods.insert(place, Arc::new(pod));
            }
            Happening::Relabelled { place, labels } => self.change(place, |pod| {
                let labels = LABELS[labels].iter().copied();
                pod.set_labels(labels.map(|(key, value)| (key.into(), value.into())).collect());
            }),
            Happening::Annotated { place, annotations } => self.change(place, |pod| {
                let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
                pod.set_annotations(ANNOTATIONS[annotations].iter().map(own).collect());
            }),
            Happening::Ending { place } => {
                self.change(place, |pod| pod.is_ending = true);
            }
            Happening::Gone { place } => {
                self.revision += 1;
                self.pods.remove(&place);
            }
            Happening::Connected { place } => {
                if let Some(pod) = self.pods.get(&place) {
                    let entry = self.sidecars.enter(&pod.uid, NAMESPACE, &pod.name);
                    self.entries.insert(place, entry);
                }
            }
            Happening::Disconnected { place } => drop(self.entries.remove(&place)),
            Happening::Sent { place, revision } => {
                if let Some(entry) = self.entries.get(&place) {
                    entry.record_sent(&revision.to_string());
                }
            }
            Happening::Applied { place, revision } => {
                if let Some(entry) = self.entries.get(&place) {
                    entry.record_applied(revision.to_string());
                }
            }
            Happening::Reported { place, report: of } => {
                if let Some(entry) = self.entries.get(&place) {
                    entry.record_report(report(&of));
                }
            }
            Happening::Forwarded {
                place,
                revision,
                report: of,
            } => {
                if let Some(entry) = self.entries.get(&place) {
                    entry.record_forwarded(ForwardedSidecar {
                        namespace: NAMESPACE.into(),
                        name: format!("litellm-{place}"),
                        sent_revision: Some(revision.to_string()),
                        report: report(&of),
                        connection: 0,
                    });
                }
            }
            Happening::ForwardedRevision { place, sent, applied } => {
                if let Some(entry) = self.entries.get(&place) {
                    let text = |revision: Option<u8>| revision.map(|revision| revision.to_string());
                    entry.record_forwarded_revision(text(sent), text(applied));
                }
            }
            Happening::WebhookCalled => self.webhook_called = true,
            Happening::Passed { seconds } => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            Happening::Leads => drop(self.sidecars.await_all()),
        }
    }

    fn change(&mut self, place: usize, change: impl FnOnce(&mut WatchedPod)) {
        self.revision += 1;
        if let Some(pod) = self.pods.get_mut(&place) {
            change(Arc::make_mut(pod));
        }
    }

    fn view(&self) -> Arc<NamespacePods> {
        let pods = || self.pods.values().cloned().collect();
        self.views
            .view(NAMESPACE, self.revision, pods, &self.sidecars, self.now())
    }

    /// By the view, of each resource.
    fn told(&self) -> Vec<Told> {
        self.told_by(&self.view())
    }

    fn told_by(&self, view: &NamespacePods) -> Vec<Told> {
        let told = |resource: &McpServerAuth| self.tell(resource, view.selected_by(resource));
        self.resources.iter().map(told).collect()
    }

    fn is_written(&mut self, told: Vec<Told>) {
        for (resource, told) in self.resources.iter_mut().zip(told) {
            resource.status = Some(told.status);
        }
    }

    /// By a look at each pod, of each resource.
    fn walked(&self) -> Vec<Told> {
        let walk = |resource: &McpServerAuth| {
            let selected = self
                .pods
                .values()
                .filter(|pod| selects(&resource.spec.pod_selector, pod.labels()));
            let (gone, pods): (Vec<_>, Vec<_>) = selected.partition(|pod| pod.is_ending);
            let mut ending = PodNames::default();
            gone.iter().for_each(|pod| ending.add(&pod.name));
            let (injectable, passed_over): (Vec<_>, Vec<_>) =
                pods.into_iter().partition(|pod| ought_to_be_injected(&***pod));
            let mut learned = LearnedOfServer::default();
            let mut classes = Vec::new();
            for pod in injectable {
                let sidecar = self.sidecars.get(&pod.uid);
                let known = sidecar.iter().flat_map(|sidecar| sidecar.reachability.iter());
                known
                    .filter(|known| known.server == resource.spec.server.name)
                    .for_each(|known| learned.add(&pod.name, known));
                classes.extend(self.class_of_one(pod, sidecar));
            }
            let passed_over: Vec<_> = passed_over
                .into_iter()
                .flat_map(|pod| self.class_of_one(pod, self.sidecars.get(&pod.uid)))
                .collect();
            let selected = Selected {
                classes: classes.iter().collect(),
                passed_over: passed_over.iter().collect(),
                ending,
                learned,
                stale_servers: BTreeMap::new(),
            };
            self.tell(resource, selected)
        };
        self.resources.iter().map(walk).collect()
    }

    fn class_of_one(&self, pod: &Arc<WatchedPod>, sidecar: Option<Arc<Sidecar>>) -> Vec<PodClass> {
        classes([&(pod.clone(), sidecar)], self.now())
    }

    fn tell(&self, resource: &McpServerAuth, selected: Selected<'_>) -> Told {
        let server = &resource.spec.server.name;
        let fleet = fleet::count(&selected.classes, &selected.passed_over, server);
        let issuance = Issuance {
            token: TokenSnapshot {
                in_use: Some(TokenInUse::default()),
                ..TokenSnapshot::default()
            },
            ..Issuance::default()
        };
        let inputs = StatusInputs {
            left_out: None,
            resource,
            issuance: &issuance,
            pods: Some(selected),
            refused: Vec::new(),
            may_miss_refusals: false,
            injection: InjectionFacts {
                namespace: NamespaceInjection::OptedIn,
                scope: Arc::default(),
                webhook_called: self.webhook_called,
                operator_started: start() - SignedDuration::from_secs(60),
                webhook_port: 10250,
            },
            expiries: Vec::new(),
            managed_key: None,
            restart: None,
        };
        Told {
            status: status(&inputs, self.now()),
            fleet,
        }
    }
}

/// Of a resource.
#[derive(Debug, PartialEq)]
struct Told {
    status: McpServerAuthStatus,
    fleet: fleet::Fleet,
}

fn with_time(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

proptest! {
    #[test]
    fn statuses_are_those_of_a_walk_whatever_happens_to_pods_and_sidecars(
        happenings in prop::collection::vec((happening(), prop::bool::weighted(1.0 / 3.0)), 1..80)
    ) {
        with_time(async {
            let mut world = World::new();
            for (happening, is_looked_at) in happenings {
                world.happens(happening).await;
                // Several things may happen between one look and the next.
                if is_looked_at {
                    let told = world.told();
                    prop_assert_eq!(&told, &world.walked());
                    world.is_written(told);
                }
            }
            prop_assert_eq!(world.told(), world.walked());
            Ok(())
        })?;
    }
}

/// Pods of one Deployment, whose sidecars have taken the snapshot 1 over.
async fn six_up_to_date() -> World {
    let mut world = World::new();
    for place in 0..6 {
        let created = Happening::Created {
            place,
            labels: 1,
            annotations: 0,
            owner: 1,
            age: 600,
        };
        world.happens(created).await;
        world.happens(Happening::Connected { place }).await;
        world.happens(Happening::Sent { place, revision: 1 }).await;
        let report = ReportOf {
            kind: 5,
            state: 2,
            since: 1,
            applied: 1,
        };
        world.happens(Happening::Reported { place, report }).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_all_sidecars_take_over_is_no_new_look_at_them_and_one_that_stays_behind_is() {
    let mut world = six_up_to_date().await;
    let before = world.view();
    for place in 0..6 {
        world.happens(Happening::Sent { place, revision: 2 }).await;
    }
    assert!(Arc::ptr_eq(&before, &world.view()));
    for place in 1..6 {
        world.happens(Happening::Applied { place, revision: 2 }).await;
    }
    assert!(Arc::ptr_eq(&before, &world.view()));
    world.happens(Happening::Passed { seconds: 11 }).await;
    let behind = world.view();
    assert!(!Arc::ptr_eq(&before, &behind));
    assert!(
        Arc::ptr_eq(&before.learned, &behind.learned),
        "of servers they know what they knew"
    );
    let counts = world.told()[2].status.sidecars.clone().unwrap();
    assert_eq!(counts.summary, "5/6");
}

/// The API server may be asked between the look at the pods and what is said of them.
#[tokio::test(start_paused = true)]
async fn pods_are_not_behind_because_the_one_that_stands_for_them_was_about_to_be() {
    let mut world = six_up_to_date().await;
    for place in 0..6 {
        world.happens(Happening::Sent { place, revision: 2 }).await;
    }
    for place in 1..6 {
        world.happens(Happening::Applied { place, revision: 2 }).await;
    }
    tokio::time::sleep(Duration::from_millis(9900)).await;
    let view = world.view();
    world
        .happens(Happening::Applied {
            place: 0,
            revision: 2,
        })
        .await;
    world
        .happens(Happening::Sent {
            place: 0,
            revision: 3,
        })
        .await;
    world.happens(Happening::Passed { seconds: 11 }).await;
    let summary = |told: &[Told]| told[2].status.sidecars.clone().unwrap().summary;
    assert_eq!(
        summary(&world.told_by(&view)),
        "6/6",
        "as it was when they were looked at"
    );
    assert_eq!(summary(&world.told()), "5/6", "one is late, and no other");
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_ending_are_named_and_a_selector_that_matches_them_is_not_said_to_match_none() {
    let mut world = six_up_to_date().await;
    for place in 0..6 {
        world.happens(Happening::Ending { place }).await;
    }
    let synced = |told: &[Told]| {
        let conditions = &told[2].status.conditions;
        let synced = conditions
            .iter()
            .find(|condition| condition.type_ == "SidecarsSynced");
        synced
            .map(|synced| (synced.reason.clone(), synced.message.clone()))
            .unwrap()
    };
    let (reason, message) = synced(&world.told());
    assert_eq!(reason, "PodsSkipped");
    let named = "and no others: pods litellm-0, litellm-1, litellm-2 and 3 more";
    assert!(message.ends_with(named), "{message}");
    for place in 0..6 {
        world.happens(Happening::Gone { place }).await;
    }
    assert_eq!(synced(&world.told()).0, "NoPodsSelected");
}

#[test]
fn a_server_that_no_resource_serves_to_a_pod_any_more_is_stale_for_it() {
    let resource = |name: &str, team: Option<&str>| -> McpServerAuth {
        let labels: BTreeMap<_, _> = team.map(|team| ("team", team)).into_iter().collect();
        let resource = json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "server": {"name": name, "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                "podSelector": {"matchLabels": labels},
            },
        });
        serde_json::from_value(resource).unwrap()
    };
    let pod = |name: &str, team: &str, servers: &[&str]| -> PodWithSidecar {
        let metadata = json!({"name": name, "uid": name, "labels": {"team": team}, "annotations": {"mcpauth.dev/injected": "1"}});
        let sidecar = Sidecar {
            restart_needed_for: servers.iter().map(|server| (*server).to_owned()).collect(),
            ..Sidecar::default()
        };
        let pod: WatchedPod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        (Arc::new(pod), Some(Arc::new(sidecar)))
    };
    let pods = [
        pod("a", "red", &["gone", "files", "tools"]),
        pod("b", "blue", &["gone", "gone", "files"]),
        pod("c", "red", &[]),
    ];
    let seen = Seen {
        pods: 1,
        sidecars: Sidecars::new().0.revision_in(NAMESPACE),
        at: start(),
        starting_until: None,
    };
    let view = NamespacePods::new(&pods, None, seen);
    let tools = resource("tools", None);
    let neighbours = || vec![Arc::new(tools.clone()), Arc::new(resource("files", Some("blue")))];
    let stale = |resource: &McpServerAuth| -> Vec<(String, String)> {
        let stale = view.stale_servers(resource, neighbours);
        stale
            .into_iter()
            .map(|(server, pods)| (server, pods.list().unwrap()))
            .collect()
    };
    let of = |server: &str, pods: &str| (server.to_owned(), pods.to_owned());
    assert_eq!(stale(&tools), [of("files", "pod a"), of("gone", "pods a, b")]);
    assert_eq!(stale(&resource("files", Some("blue"))), [of("gone", "pod b")]);
}
