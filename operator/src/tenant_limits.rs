//! Tenant limits: how much of the operator one namespace may take, and all of them together. What is beyond a limit is told in
//! the resource's conditions, and what works goes on: its token serves until it expires.

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, McpServerAuthSpec};
use mcp_auth_credentials::{NotServedError, NotServedReason};

use crate::entitlement::seniority;
use crate::namespace_index::NamespaceIndex;

/// The default limits nothing.
#[derive(Clone, Copy, Debug)]
pub struct TenantLimits {
    /// Resources of one namespace, the oldest first.
    pub resources_per_namespace: usize,
    /// Resources of all namespaces, the oldest first. What is beyond the limit of its namespace does not count.
    pub resources: usize,
    /// What a `podSelector` is made of: labels, expressions and their values.
    pub selector_terms: usize,
    /// Parameters of a token request besides those that have fields of their own.
    pub parameters: usize,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            resources_per_namespace: usize::MAX,
            resources: usize::MAX,
            selector_terms: usize::MAX,
            parameters: usize::MAX,
        }
    }
}

/// Where the limits of counts are among the resources that there are: found once for a look at many of them.
#[derive(Debug, Default)]
pub struct CountLimits {
    /// Of namespaces that have too many: how many, and the oldest that is beyond the limit.
    by_namespace: HashMap<String, (usize, Age)>,
    /// The oldest that is beyond the limit of all.
    total: Option<Age>,
}

/// Creation, name and namespace: those of one second and one name go by their namespaces.
type Age = (Option<jiff::Timestamp>, String, String);

impl TenantLimits {
    /// Those that are counted among these, which are all that there are.
    pub fn counts(&self, index: &NamespaceIndex) -> CountLimits {
        let mut counts = CountLimits::default();
        for (namespace, resources) in index {
            if let Some(beyond) = oldest_beyond(resources.values(), self.resources_per_namespace) {
                let beyond = (resources.len(), age(beyond));
                counts.by_namespace.insert(namespace.clone(), beyond);
            }
        }
        // Without too many there is no need to compare ages.
        if self.is_total_reached(index) {
            let counted = index.values().flat_map(|resources| resources.values());
            let counted = counted.filter(|resource| !counts.is_beyond_namespace(resource));
            counts.total = oldest_beyond(counted, self.resources).map(|beyond| age(beyond));
        }
        counts
    }

    /// Of the resources of one namespace those that may be given to pods, and claim the server's name there: those within the limits,
    /// and those that are beyond and still in use.
    pub fn within(
        &self,
        mut resources: Vec<Arc<McpServerAuth>>,
        is_in_use: impl Fn(&McpServerAuth) -> bool,
    ) -> Vec<Arc<McpServerAuth>> {
        let beyond = oldest_beyond(&resources, self.resources_per_namespace).cloned();
        resources.retain(|resource| {
            let is_counted = beyond
                .as_ref()
                .is_none_or(|beyond| seniority(resource) < seniority(beyond));
            is_counted && self.check_spec(&resource.spec).is_ok() || is_in_use(resource)
        });
        resources
    }

    /// The first limit that a resource is beyond, with the way out.
    pub fn check(&self, resource: &McpServerAuth, counts: &CountLimits) -> Result<(), NotServedError> {
        self.check_spec(&resource.spec)?;
        self.check_count(resource, counts)
    }

    /// Whether the end of a resource may make room for one of another namespace.
    pub fn is_total_reached(&self, index: &NamespaceIndex) -> bool {
        let counted: usize = index
            .values()
            .map(|resources| resources.len().min(self.resources_per_namespace))
            .sum();
        counted.saturating_add(1) >= self.resources
    }

    fn check_spec(&self, spec: &McpServerAuthSpec) -> Result<(), NotServedError> {
        let selector = &spec.pod_selector;
        let labels = selector.match_labels.as_ref().map_or(0, |labels| labels.len());
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions.map(|expression| 1 + expression.values.as_ref().map_or(0, Vec::len));
        let terms = labels + expressions.sum::<usize>();
        if terms > self.selector_terms {
            return Err(exceeded(format!(
                "spec.podSelector has {terms} labels, expressions and values, and {} are allowed (limits.selectorTerms): \
                 select by fewer",
                self.selector_terms
            )));
        }
        let parameters = spec.oauth2.as_ref().map_or(0, |oauth2| {
            oauth2.extra_parameters.len() + oauth2.extra_parameters_from.len()
        });
        if parameters > self.parameters {
            return Err(exceeded(format!(
                "spec.oauth2.extraParameters and extraParametersFrom have {parameters} parameters, and {} are allowed \
                 (limits.parameters): leave some out",
                self.parameters
            )));
        }
        Ok(())
    }

    fn check_count(&self, resource: &McpServerAuth, counts: &CountLimits) -> Result<(), NotServedError> {
        if counts.is_beyond_namespace(resource) {
            let namespace = resource.namespace().unwrap_or_default();
            let of_namespace = counts.by_namespace.get(&namespace).map_or(0, |(count, _)| *count);
            return Err(exceeded(format!(
                "the namespace has {of_namespace} McpServerAuth resources, and the {} oldest of them are served \
                 (limits.resourcesPerNamespace): delete others",
                self.resources_per_namespace
            )));
        }
        if counts
            .total
            .as_ref()
            .is_some_and(|beyond| age(resource) >= *beyond)
        {
            return Err(exceeded(format!(
                "all namespaces together have more McpServerAuth resources than the {} oldest, which are served \
                 (limits.resources): delete others",
                self.resources
            )));
        }
        Ok(())
    }
}

impl CountLimits {
    fn is_beyond_namespace(&self, resource: &McpServerAuth) -> bool {
        let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
        let beyond = self.by_namespace.get(namespace);
        beyond.is_some_and(|(_, (created, name, _))| seniority(resource) >= (*created, name))
    }
}

/// The oldest of those that are not among the `allowed` oldest.
fn oldest_beyond<'a>(
    resources: impl IntoIterator<Item = &'a Arc<McpServerAuth>>,
    allowed: usize,
) -> Option<&'a Arc<McpServerAuth>> {
    let mut resources: Vec<_> = resources.into_iter().collect();
    if resources.len() <= allowed {
        return None;
    }
    let order = |a: &&Arc<McpServerAuth>, b: &&Arc<McpServerAuth>| {
        let namespaces = || a.metadata.namespace.cmp(&b.metadata.namespace);
        seniority(a).cmp(&seniority(b)).then_with(namespaces)
    };
    Some(*resources.select_nth_unstable_by(allowed, order).1)
}

fn age(resource: &McpServerAuth) -> Age {
    let (created, name) = seniority(resource);
    (created, name.to_owned(), resource.namespace().unwrap_or_default())
}

fn exceeded(message: String) -> NotServedError {
    let message = format!("{message}, or ask who runs mcp-auth to raise the limit");
    NotServedError::new(NotServedReason::LimitExceeded, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resource(namespace: &str, name: &str, second: u32, spec: Value) -> McpServerAuth {
        let mut whole = json!({
            "server": {"name": name, "url": "https://tools.example.com/mcp"},
            "oauth2": {
                "tokenUrl": "https://auth.example.com/token",
                "clientId": "litellm",
                "clientAuthentication": {"method": "WorkloadIdentity", "workloadIdentity": {"audience": "auth"}},
            },
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            let field = &mut whole[key];
            match (field.as_object_mut(), value.as_object()) {
                (Some(field), Some(value)) => field.extend(value.clone()),
                _ => *field = value.clone(),
            }
        }
        serde_json::from_value(json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {
                "name": name, "namespace": namespace,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            },
            "spec": whole,
        }))
        .unwrap()
    }

    fn index(resources: &[McpServerAuth]) -> NamespaceIndex {
        let mut index = NamespaceIndex::default();
        for resource in resources {
            let of_namespace = index.entry(resource.namespace().unwrap()).or_default();
            of_namespace.insert(resource.name_any(), Arc::new(resource.clone()));
        }
        index
    }

    fn served(limits: &TenantLimits, resources: &[McpServerAuth]) -> Vec<String> {
        let counts = limits.counts(&index(resources));
        let served = resources
            .iter()
            .filter(|resource| limits.check(resource, &counts).is_ok());
        served
            .map(|resource| format!("{}/{}", resource.namespace().unwrap(), resource.name_any()))
            .collect()
    }

    #[test]
    fn the_oldest_of_a_namespace_are_served_and_the_others_told_how_many_there_are() {
        let all = [
            resource("red", "c", 3, json!({})),
            resource("red", "a", 1, json!({})),
            // Of the same second: by name.
            resource("red", "z", 2, json!({})),
            resource("red", "b", 2, json!({})),
            resource("blue", "d", 9, json!({})),
        ];
        let limits = TenantLimits {
            resources_per_namespace: 2,
            ..TenantLimits::default()
        };
        assert_eq!(served(&limits, &all), ["red/a", "red/b", "blue/d"]);
        let error = limits.check(&all[0], &limits.counts(&index(&all))).unwrap_err();
        assert_eq!(error.reason(), "LimitExceeded");
        assert!(!error.ends_use(), "what works goes on");
        for part in [
            "4 McpServerAuth",
            "2 oldest",
            "limits.resourcesPerNamespace",
            "raise the limit",
        ] {
            assert!(error.message().contains(part), "{}", error.message());
        }
        assert_eq!(served(&TenantLimits::default(), &all).len(), 5);

        let red: Vec<_> = all[..4].iter().cloned().map(Arc::new).collect();
        let given = |is_in_use: &dyn Fn(&McpServerAuth) -> bool| -> Vec<String> {
            let given = limits.within(red.clone(), is_in_use);
            given.iter().map(|resource| resource.name_any()).collect()
        };
        assert_eq!(given(&|_| false), ["a", "b"]);
        assert_eq!(
            given(&|it| it.name_any() == "z"),
            ["a", "z", "b"],
            "what works goes on"
        );
    }

    #[test]
    fn a_namespace_with_too_many_takes_no_more_of_the_total_than_its_own_limit() {
        let mut all: Vec<_> = (0..9)
            .map(|number| resource("crowd", &format!("r{number}"), number, json!({})))
            .collect();
        all.push(resource("late", "a", 20, json!({})));
        all.push(resource("late", "b", 21, json!({})));
        all.push(resource("later", "c", 22, json!({})));
        let limits = TenantLimits {
            resources_per_namespace: 3,
            resources: 5,
            ..TenantLimits::default()
        };
        assert_eq!(
            served(&limits, &all),
            ["crowd/r0", "crowd/r1", "crowd/r2", "late/a", "late/b"]
        );
        let error = limits.check(&all[11], &limits.counts(&index(&all))).unwrap_err();
        assert!(
            error.message().contains("limits.resources)"),
            "{}",
            error.message()
        );
        assert!(limits.is_total_reached(&index(&all)));
        assert!(
            limits.is_total_reached(&index(&all[..10])),
            "one that goes makes room"
        );
        assert!(!limits.is_total_reached(&index(&all[..9])));
    }

    #[test]
    fn selectors_and_parameters_are_counted_with_all_that_they_are_made_of() {
        let limits = TenantLimits {
            selector_terms: 4,
            parameters: 2,
            ..TenantLimits::default()
        };
        let selector = |values: &[&str]| {
            let expression = json!({"key": "team", "operator": "In", "values": values});
            json!({"podSelector": {"matchLabels": {"app": "litellm"}, "matchExpressions": [expression]}})
        };
        let parameters = |count: usize| {
            let stated: serde_json::Map<String, Value> = (0..count - 1)
                .map(|number| (format!("p{number}"), json!("x")))
                .collect();
            let from = json!([{"name": "q", "secretKeyRef": {"name": "s", "key": "k"}}]);
            json!({"oauth2": {"extraParameters": stated, "extraParametersFrom": from}})
        };
        for (within, beyond, field) in [
            (
                selector(&["red", "blue"]),
                selector(&["red", "blue", "green"]),
                "spec.podSelector has 5",
            ),
            (parameters(2), parameters(3), "have 3 parameters"),
        ] {
            let within = resource("red", "a", 1, within);
            assert_eq!(limits.check(&within, &CountLimits::default()), Ok(()));
            let beyond = resource("red", "a", 1, beyond);
            let error = limits.check(&beyond, &CountLimits::default()).unwrap_err();
            assert!(error.message().contains(field), "{}", error.message());
        }
    }
}
