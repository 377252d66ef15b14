//! Restart causes: why the LiteLLM of a pod has to start again. A pure function of the resource, the pod and what its
//! sidecar reported.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, RestartPolicy};
use sha2::{Digest, Sha256};

use crate::args::RestartMode;
use crate::entitlement::selects;
use crate::inject::annotations;
use crate::namespaces::{NamespaceInjection, WebhookScope};
use crate::pods::{WatchedPod, is_injected, is_starting};
use crate::sidecars::Sidecar;
use crate::version_skew::is_too_old;

/// Why LiteLLM has to start again. Equal for the same change of the same resource, whoever leads.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// LiteLLM does not know the server as this generation of the resource says.
    ServerChanged { resource: String, generation: i64 },
    /// LiteLLM knows a server that no resource serves to its pod any more.
    ServerRemoved { server: String },
    /// The pod is older than the resource, or the webhook was not asked about it.
    NotInjected { resource: String },
    /// The pod's sidecar is older than this operator serves.
    SidecarTooOld { operator: &'static str },
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerChanged { resource, generation } => {
                write!(formatter, "changed:{resource}:{generation}")
            }
            Self::ServerRemoved { server } => write!(formatter, "removed:{server}"),
            Self::NotInjected { resource } => write!(formatter, "uninjected:{resource}"),
            Self::SidecarTooOld { operator } => write!(formatter, "too-old:{operator}"),
        }
    }
}

impl Cause {
    /// A short text that stands for it in an annotation.
    pub fn digest(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.to_string()).into();
        digest[..5].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is known besides the objects.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Whether a pod that is made now is injected.
    pub namespace: &'a NamespaceInjection,
    pub scope: &'a WebhookScope,
    pub now: Timestamp,
    /// Whether a resource of the namespace had this server name since the pod was made. A sidecar may report any name, and each would
    /// be another change.
    pub had_server: &'a (dyn Fn(&str, &WatchedPod) -> bool + Send + Sync),
}

/// Whether the operator restarts workloads for this resource.
pub fn restarts(resource: &McpServerAuth, mode: RestartMode) -> bool {
    match (mode, resource.spec.restart) {
        (RestartMode::Never, _) | (_, Some(RestartPolicy::Manual)) => false,
        (RestartMode::OnRequest, policy) => policy == Some(RestartPolicy::Automatic),
        (RestartMode::Always, _) => true,
    }
}

/// What this pod, which the resource selects, has to be replaced for. `resources` are all of the namespace.
pub fn causes(
    resource: &McpServerAuth,
    resources: &[Arc<McpServerAuth>],
    pod: &WatchedPod,
    sidecar: Option<&Sidecar>,
    facts: Facts<'_>,
) -> BTreeSet<Cause> {
    let uid = resource.uid().unwrap_or_default();
    if !is_injected(pod) {
        // What injection has left alone it leaves alone again.
        let is_left_alone = pod.annotations().contains_key(annotations::NOT_INJECTED);
        let asks_itself = pod.labels().get(annotations::INJECT_LABEL).map(String::as_str) == Some("true");
        let would_be_injected = match facts.namespace {
            NamespaceInjection::OptedIn => true,
            NamespaceInjection::NotOptedIn | NamespaceInjection::Unknown => asks_itself,
            NamespaceInjection::Excluded { .. } => false,
        };
        let is_looked_at = facts.scope.why_not_pod(pod.labels()).is_none();
        let is_missed = !is_left_alone && would_be_injected && is_looked_at && !is_starting(pod, facts.now);
        return is_missed
            .then_some(Cause::NotInjected { resource: uid })
            .into_iter()
            .collect();
    }
    let Some(sidecar) = sidecar else {
        return BTreeSet::new();
    };
    // To this pod: what serves the name to others is no use to it.
    let is_served = |server: &String| {
        resources.iter().any(|resource| {
            resource.spec.server.name == *server && selects(&resource.spec.pod_selector, pod.labels())
        })
    };
    let is_known = |server: &String| {
        let is_of_others = resources
            .iter()
            .any(|resource| resource.spec.server.name == *server);
        is_of_others || (facts.had_server)(server, pod)
    };
    let restart_needed = sidecar.restart_needed_for.iter();
    let mut causes: BTreeSet<Cause> = restart_needed
        .filter_map(|server| match *server == resource.spec.server.name {
            true => Some(Cause::ServerChanged {
                resource: uid.clone(),
                generation: resource.metadata.generation.unwrap_or_default(),
            }),
            // Nobody else asks for it.
            false => (!is_served(server) && is_known(server)).then(|| Cause::ServerRemoved {
                server: server.clone(),
            }),
        })
        .collect();
    if is_too_old(sidecar) {
        causes.insert(Cause::SidecarTooOld {
            operator: env!("CARGO_PKG_VERSION"),
        });
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(name: &str, restart: Option<&str>) -> McpServerAuth {
        serde_json::from_value(json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": name, "namespace": "llm", "uid": format!("uid-{name}"), "generation": 3},
            "spec": {
                "server": {"name": name, "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                "restart": restart,
            },
        }))
        .unwrap()
    }

    fn pod(annotation: Option<&str>) -> WatchedPod {
        let annotations: std::collections::BTreeMap<_, _> =
            annotation.map(|key| (key, "x")).into_iter().collect();
        let metadata = json!({"name": "a", "labels": {"app.kubernetes.io/name": "litellm"}, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().unwrap()
    }

    fn found(pod: &WatchedPod, sidecar: Option<&Sidecar>) -> Vec<String> {
        let tools = resource("tools", None);
        let all = [Arc::new(tools.clone()), Arc::new(resource("other", None))];
        let facts = Facts {
            namespace: &NamespaceInjection::OptedIn,
            scope: &WebhookScope::default(),
            now: now(),
            had_server: &|server, _| server == "gone",
        };
        let causes = causes(&tools, &all, pod, sidecar, facts);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_asks_for_restarts_is_the_resource_within_what_the_operator_may() {
        for (mode, policy, expected) in [
            (RestartMode::Never, Some("Automatic"), false),
            (RestartMode::OnRequest, None, false),
            (RestartMode::OnRequest, Some("Automatic"), true),
            (RestartMode::OnRequest, Some("Manual"), false),
            (RestartMode::Always, None, true),
            (RestartMode::Always, Some("Manual"), false),
        ] {
            assert_eq!(
                restarts(&resource("tools", policy), mode),
                expected,
                "{mode:?} {policy:?}"
            );
        }
    }

    #[test]
    fn a_pod_past_the_webhook_needs_one_and_what_injection_left_alone_does_not() {
        assert_eq!(found(&pod(None), None), ["uninjected:uid-tools"]);
        assert!(found(&pod(Some(annotations::NOT_INJECTED)), None).is_empty());
        assert!(found(&pod(Some(annotations::INJECTED)), None).is_empty());
        let mut young = pod(None);
        young.created = Some(now());
        assert!(
            found(&young, None).is_empty(),
            "its namespace may only just have opted in"
        );
        let tools = resource("tools", None);
        let mut asking = pod(None);
        asking.set_labels([(annotations::INJECT_LABEL.to_owned(), "true".to_owned())].into());
        let in_namespace = |pod: &WatchedPod, namespace: &NamespaceInjection| {
            let facts = Facts {
                namespace,
                scope: &WebhookScope::default(),
                now: now(),
                had_server: &|_, _| false,
            };
            causes(&tools, &[], pod, None, facts).len()
        };
        let closed = NamespaceInjection::NotOptedIn;
        assert_eq!(
            in_namespace(&pod(None), &closed),
            0,
            "it would come back as it is"
        );
        assert_eq!(in_namespace(&asking, &closed), 1);
        let excluded = NamespaceInjection::Excluded { why: "x".into() };
        assert_eq!(in_namespace(&asking, &excluded), 0, "the webhook is not asked");
        assert_eq!(in_namespace(&pod(None), &excluded), 0);
        let scope = WebhookScope {
            object_selector: serde_json::from_value(json!({"matchLabels": {"tier": "gateway"}})).unwrap(),
            ..WebhookScope::default()
        };
        let facts = Facts {
            namespace: &closed,
            scope: &scope,
            now: now(),
            had_server: &|_, _| false,
        };
        assert!(
            causes(&tools, &[], &asking, None, facts).is_empty(),
            "nor about this pod"
        );
    }

    #[test]
    fn servers_that_came_changed_or_went_need_one_and_another_resources_server_is_its_own_matter() {
        let sidecar = |servers: &[&str]| Sidecar {
            restart_needed_for: servers.iter().map(|server| (*server).to_owned()).collect(),
            ..Sidecar::default()
        };
        let injected = pod(Some(annotations::INJECTED));
        assert_eq!(
            found(&injected, Some(&sidecar(&["tools"]))),
            ["changed:uid-tools:3"]
        );
        assert_eq!(found(&injected, Some(&sidecar(&["gone"]))), ["removed:gone"]);
        let made_up = sidecar(&["x1", "x2"]);
        assert!(
            found(&injected, Some(&made_up)).is_empty(),
            "no resource ever had these"
        );
        assert!(found(&injected, Some(&sidecar(&["other"]))).is_empty());
        // A selector that leaves the pod takes the server from it as well.
        let mut elsewhere = resource("other", None);
        elsewhere.spec.pod_selector =
            serde_json::from_value(json!({"matchLabels": {"team": "red"}})).unwrap();
        let tools = resource("tools", None);
        let all = [Arc::new(tools.clone()), Arc::new(elsewhere)];
        let facts = Facts {
            namespace: &NamespaceInjection::OptedIn,
            scope: &WebhookScope::default(),
            now: now(),
            had_server: &|server, _| server == "gone",
        };
        let left = causes(&tools, &all, &injected, Some(&sidecar(&["other"])), facts);
        assert_eq!(left.len(), 1, "{left:?}");
        let old = Sidecar {
            problems: vec![mcp_auth_protocol::sync::Problem::new("SidecarTooOld", "restart")],
            ..Sidecar::default()
        };
        assert_eq!(found(&injected, Some(&old)).len(), 1);
    }
}
