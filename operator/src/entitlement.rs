//! Entitlement: which pod may get the credentials of which MCP servers. A pure function of the resources of
//! the pod's namespace and the pod's labels. The webhook and the sync endpoint both decide by it, so that
//! they cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use mcp_auth_crds::McpServerAuth;

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// The resources that serve a pod with these labels, one for each server name: where several claim the same,
/// the oldest gets it, so that a new resource never disturbs one that works.
pub fn entitled(resources: &[Arc<McpServerAuth>], labels: &Labels) -> Vec<Arc<McpServerAuth>> {
    let mut by_server: BTreeMap<&str, &Arc<McpServerAuth>> = BTreeMap::new();
    for resource in resources
        .iter()
        .filter(|resource| selects(&resource.spec.pod_selector, labels))
    {
        by_server
            .entry(&resource.spec.server.name)
            .and_modify(|oldest| {
                if seniority(resource) < seniority(oldest) {
                    *oldest = resource;
                }
            })
            .or_insert(resource);
    }
    by_server.into_values().cloned().collect()
}

/// The older resource that leaves `resource` no pod: it claims the same server name and has the same selector,
/// or the older ones together select every one of `pods` that `resource` selects. Where some are left to it, it
/// serves those, as [`entitled`] decides for each.
pub fn conflict<'a>(
    resource: &McpServerAuth,
    resources: &'a [Arc<McpServerAuth>],
    pods: &[Labels],
) -> Option<&'a Arc<McpServerAuth>> {
    let older = || {
        resources
            .iter()
            .filter(|other| other.spec.server.name == resource.spec.server.name)
            .filter(|other| seniority(other) < seniority(resource))
    };
    let same = older().find(|other| other.spec.pod_selector == resource.spec.pod_selector);
    if same.is_some() {
        return same;
    }
    let selected = pods
        .iter()
        .filter(|labels| selects(&resource.spec.pod_selector, labels));
    let mut claimed_by = None;
    for labels in selected {
        claimed_by = Some(older().find(|other| selects(&other.spec.pod_selector, labels))?);
    }
    claimed_by
}

/// Whether a selector matches these labels. One that Kubernetes would refuse matches nothing.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    // Most selectors are that, and it is asked for each resource and pod.
    if selector.match_expressions.as_ref().is_none_or(Vec::is_empty) {
        let mut wanted = selector.match_labels.iter().flatten();
        return wanted.all(|(key, value)| labels.get(key) == Some(value));
    }
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// Orders resources by age, and those of one second by name.
pub fn seniority(resource: &McpServerAuth) -> (Option<jiff::Timestamp>, &str) {
    let created = resource.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, resource.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    fn resource(name: &str, server: &str, created: &str, selector: &[(&str, &str)]) -> Arc<McpServerAuth> {
        let selector: Labels = selector.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "apiVersion": "mcpauth.dev/v1alpha1",
                "kind": "McpServerAuth",
                "metadata": {"name": name, "namespace": "apps", "creationTimestamp": created},
                "spec": {
                    "server": {"name": server, "url": format!("https://{name}.example.com/mcp")},
                    "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                    "cookiePassthrough": {"enabled": false, "cookieNames": ["session_id"]},
                    "headerPassthrough": {"headerNames": ["X-Forwarded-User"]},
                    "podSelector": {"matchLabels": selector},
                },
            }))
            .unwrap(),
        )
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn names(resources: &[Arc<McpServerAuth>]) -> Vec<String> {
        resources.iter().map(|resource| resource.name_any()).collect()
    }

    #[test]
    fn a_pod_is_entitled_to_what_selects_it_and_to_nothing_else() {
        let all = [
            resource("a", "tools", "2026-01-01T00:00:00Z", &[("app", "litellm")]),
            resource(
                "b",
                "files",
                "2026-01-01T00:00:00Z",
                &[("app", "litellm"), ("team", "red")],
            ),
            resource("c", "mail", "2026-01-01T00:00:00Z", &[("app", "other")]),
        ];
        assert_eq!(names(&entitled(&all, &labels(&[("app", "litellm")]))), ["a"]);
        assert_eq!(
            names(&entitled(&all, &labels(&[("app", "litellm"), ("team", "red")]))),
            ["b", "a"]
        );
        assert!(entitled(&all, &labels(&[])).is_empty());
    }

    #[test]
    fn the_oldest_resource_keeps_a_server_name_that_two_claim() {
        let old = resource("zoe", "tools", "2026-01-01T00:00:00Z", &[("app", "litellm")]);
        let new = resource(
            "amy",
            "tools",
            "2026-01-01T00:00:01Z",
            &[("app", "litellm"), ("team", "red")],
        );
        let all = [new.clone(), old.clone()];
        assert_eq!(
            names(&entitled(&all, &labels(&[("app", "litellm"), ("team", "red")]))),
            ["zoe"]
        );

        let shared = labels(&[("app", "litellm"), ("team", "red")]);
        let conflict_of =
            |resource, pods: &[Labels]| conflict(resource, &all, pods).map(|older| older.name_any());
        assert_eq!(
            conflict_of(&new, std::slice::from_ref(&shared)).as_deref(),
            Some("zoe")
        );
        assert_eq!(conflict_of(&old, std::slice::from_ref(&shared)), None);
        assert_eq!(
            conflict_of(&new, &[labels(&[("app", "litellm")])]),
            None,
            "no pod is selected by both"
        );
    }

    #[test]
    fn a_resource_serves_the_pods_that_no_older_one_claims() {
        let old = resource("zoe", "tools", "2026-01-01T00:00:00Z", &[("team", "red")]);
        let new = resource("amy", "tools", "2026-01-01T00:00:01Z", &[("app", "litellm")]);
        let all = [old.clone(), new.clone()];
        let red = labels(&[("app", "litellm"), ("team", "red")]);
        let blue = labels(&[("app", "litellm"), ("team", "blue")]);
        assert!(conflict(&new, &all, &[red.clone(), blue.clone()]).is_none());
        assert_eq!(names(&entitled(&all, &red)), ["zoe"]);
        assert_eq!(names(&entitled(&all, &blue)), ["amy"]);
        assert!(
            conflict(&new, &all, &[red]).is_some(),
            "there is no pod left for it"
        );
        assert!(conflict(&new, &all, &[]).is_none(), "there may be one soon");

        let twin = resource("bob", "tools", "2026-01-01T00:00:02Z", &[("app", "litellm")]);
        let all = [old, new, twin.clone()];
        assert!(conflict(&twin, &all, &[]).is_some(), "there will never be one");
    }
}
