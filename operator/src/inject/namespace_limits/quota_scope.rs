//! Quota scope: which pods a ResourceQuota counts (its `scopes` and `scopeSelector`).

use k8s_openapi::api::core::v1::{PodSpec, ResourceQuota, ScopedResourceSelectorRequirement};

/// Whether the quota counts the pod; nothing where its scope is not known here. `is_best_effort`: of the whole pod.
pub(super) fn matches(quota: &ResourceQuota, spec: &PodSpec, is_best_effort: bool) -> Option<bool> {
    let of_quota = quota.spec.as_ref()?;
    let ends = spec.active_deadline_seconds.is_some();
    let in_scope = |scope: &str| match scope {
        "BestEffort" => Some(is_best_effort),
        "NotBestEffort" => Some(!is_best_effort),
        "Terminating" => Some(ends),
        "NotTerminating" => Some(!ends),
        "PriorityClass" => Some(spec.priority_class_name.is_some()),
        _ => None,
    };
    let selected = |requirement: &ScopedResourceSelectorRequirement| {
        if requirement.scope_name != "PriorityClass" {
            let is_in = in_scope(&requirement.scope_name)?;
            return Some(is_in == (requirement.operator != "DoesNotExist"));
        }
        let class = spec.priority_class_name.as_ref();
        let is_listed =
            class.is_some_and(|class| requirement.values.iter().flatten().any(|one| one == class));
        match requirement.operator.as_str() {
            "In" => Some(is_listed),
            "NotIn" => Some(!is_listed),
            "Exists" => Some(class.is_some()),
            "DoesNotExist" => Some(class.is_none()),
            _ => None,
        }
    };
    let scopes = of_quota.scopes.iter().flatten().map(|scope| in_scope(scope));
    let selector = of_quota.scope_selector.iter();
    let requirements = selector.flat_map(|selector| selector.match_expressions.iter().flatten());
    let all: Vec<Option<bool>> = scopes.chain(requirements.map(selected)).collect();
    if all.contains(&Some(false)) {
        return Some(false);
    }
    (!all.contains(&None)).then_some(true)
}
