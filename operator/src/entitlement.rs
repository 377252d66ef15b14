//! Entitlement: which pod may get the credentials of which MCP servers. A pure function of the resources of
//! the pod's namespace and the pod's labels. The webhook and the sync endpoint both decide by it, so that
//! they cannot disagree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
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

/// Of resources that claim the same server name, by name: the older one that leaves it no pod. That has the same selector, or
/// the older ones together select every one of `pods`, by their labels, that it selects. Where some are left to it, it serves
/// those, as [`entitled`] decides for each. Each selector is looked at once for each set of labels.
pub fn conflicts<'a>(
    rivals: &'a [Arc<McpServerAuth>],
    pods: &[&Labels],
) -> HashMap<String, &'a Arc<McpServerAuth>> {
    let mut by_age: Vec<_> = rivals.iter().collect();
    by_age.sort_by(|a, b| seniority(a).cmp(&seniority(b)));
    let mut claimed_by = vec![None; by_age.len()];
    let mut has_pod = vec![false; by_age.len()];
    for labels in pods {
        let selecting = by_age.iter().enumerate();
        let mut selecting = selecting.filter(|(_, rival)| selects(&rival.spec.pod_selector, labels));
        if let Some((oldest, resource)) = selecting.next() {
            has_pod[oldest] = true;
            selecting.for_each(|(younger, _)| claimed_by[younger] = Some(*resource));
        }
    }
    let mut oldest_of_selector = HashMap::new();
    let mut conflicts = HashMap::new();
    for (index, resource) in by_age.iter().enumerate() {
        let selector =
            serde_json::to_string(&resource.spec.pod_selector).expect("a selector is plain values");
        let oldest = *oldest_of_selector.entry(selector).or_insert(*resource);
        let same = Some(oldest).filter(|oldest| !Arc::ptr_eq(oldest, resource));
        let claimed = || claimed_by[index].filter(|_| !has_pod[index]);
        if let Some(older) = same.or_else(claimed) {
            let name = resource.metadata.name.clone().unwrap_or_default();
            conflicts.insert(name, older);
        }
    }
    conflicts
}

/// Whether a selector matches these labels. One that Kubernetes would refuse matches nothing. It is asked for each resource and
/// pod, so nothing is copied.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            match (expression.operator.as_str(), &expression.values) {
                ("In", Some(values)) => value.is_some_and(|value| values.contains(value)),
                ("NotIn", Some(values)) => value.is_none_or(|value| !values.contains(value)),
                ("Exists", _) => value.is_some(),
                ("DoesNotExist", _) => value.is_none(),
                _ => false,
            }
        })
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

    fn conflict(
        resource: &Arc<McpServerAuth>,
        all: &[Arc<McpServerAuth>],
        pods: &[Labels],
    ) -> Option<String> {
        let conflicts = conflicts(all, &pods.iter().collect::<Vec<_>>());
        conflicts.get(&resource.name_any()).map(|older| older.name_any())
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
        let conflict_of = |resource, pods: &[Labels]| conflict(resource, &all, pods);
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

    #[test]
    fn expressions_are_read_as_kubernetes_reads_them() {
        let selector = |expression: serde_json::Value| -> LabelSelector {
            serde_json::from_value(serde_json::json!({"matchExpressions": [expression]})).unwrap()
        };
        let red = labels(&[("team", "red")]);
        for (operator, values, of_red, of_none) in [
            ("In", Some(vec!["red", "blue"]), true, false),
            ("In", Some(vec!["blue"]), false, false),
            ("In", None, false, false),
            ("NotIn", Some(vec!["red"]), false, true),
            ("NotIn", Some(vec!["blue"]), true, true),
            ("NotIn", None, false, false),
            ("Exists", None, true, false),
            ("DoesNotExist", None, false, true),
            ("Gt", Some(vec!["1"]), false, false),
        ] {
            let selector =
                selector(serde_json::json!({"key": "team", "operator": operator, "values": values}));
            assert_eq!(selects(&selector, &red), of_red, "{selector:?}");
            assert_eq!(selects(&selector, &labels(&[])), of_none, "{selector:?}");
        }
    }

    /// Were each pod of each resource compared with each older rival, this would be 25 million comparisons of 250 values.
    #[test]
    fn a_crowd_with_one_server_name_is_looked_at_once_for_each_set_of_labels() {
        let crowd: Vec<_> = (0..500)
            .map(|number| {
                let mut resource = McpServerAuth::clone(&resource("r", "tools", "2026-01-01T00:00:00Z", &[]));
                resource.metadata.name = Some(format!("r{number:03}"));
                // The oldest select nothing, and are looked at to the end.
                let team = if number == 499 { "red" } else { "blue" };
                let values: Vec<_> = (0..250)
                    .map(|value| format!("{team}-{value}"))
                    .chain((number == 499).then(|| "red".to_owned()))
                    .collect();
                resource.spec.pod_selector = serde_json::from_value(serde_json::json!({
                    "matchExpressions": [
                        {"key": "team", "operator": "In", "values": values},
                        {"key": "number", "operator": "NotIn", "values": [number.to_string()]},
                    ],
                }))
                .unwrap();
                Arc::new(resource)
            })
            .collect();
        let pods: Vec<_> = (0..200)
            .map(|pod| labels(&[("team", "red"), ("pod", &pod.to_string())]))
            .collect();
        let found = conflicts(&crowd, &pods.iter().collect::<Vec<_>>());
        assert!(found.is_empty(), "no two select the same pod");
    }
}
