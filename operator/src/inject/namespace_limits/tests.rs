use serde_json::{Value, json};

use super::*;

const SETTINGS: &str = r#"{"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}"#;

fn spec(resources: Value) -> PodSpec {
    let container = json!({"name": "litellm", "resources": resources});
    serde_json::from_value(json!({"containers": [container]})).unwrap()
}

fn litellm() -> PodSpec {
    spec(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}))
}

fn quota(spec: Value, used: Value) -> NamespaceLimits {
    let hard = spec["hard"].clone();
    let quota = json!({"metadata": {"name": "team"}, "spec": spec, "status": {"hard": hard, "used": used}});
    NamespaceLimits {
        quotas: vec![serde_json::from_value(quota).unwrap()],
        ranges: vec![],
        are_withheld: false,
    }
}

fn range(items: Value) -> NamespaceLimits {
    let range = json!({"metadata": {"name": "range"}, "spec": {"limits": items}});
    NamespaceLimits {
        quotas: vec![],
        ranges: vec![serde_json::from_value(range).unwrap()],
        are_withheld: false,
    }
}

fn fitted(spec: &PodSpec, stated: Option<Value>, limits: &NamespaceLimits) -> Result<Value, String> {
    let stated: Option<ResourceRequirements> = stated.map(|stated| serde_json::from_value(stated).unwrap());
    let mut resources: ResourceRequirements = serde_json::from_str(SETTINGS).unwrap();
    for field in [Field::Requests, Field::Limits] {
        let mut stated = stated.clone().unwrap_or_default();
        let stated = std::mem::take(quantities_mut(&mut stated, field));
        quantities_mut(&mut resources, field).extend(stated);
    }
    let place = Place { spec, position: 0 };
    fit(place, resources, stated.as_ref(), limits)
        .map(|resources| serde_json::to_value(resources).unwrap())
        .map_err(|error| format!("{}: {error}", error.reason()))
}

#[test]
fn without_quotas_and_ranges_the_settings_count() {
    let settings: Value = serde_json::from_str(SETTINGS).unwrap();
    assert_eq!(
        fitted(&litellm(), None, &NamespaceLimits::default()),
        Ok(settings)
    );
}

#[test]
fn a_pod_of_a_stranger_has_what_quotas_demand_and_is_left_alone_where_the_sidecar_does_not_fit() {
    let with_used = |used: &str| {
        quota(
            json!({"hard": {"limits.cpu": "4", "requests.memory": "8Gi"}}),
            json!({"limits.cpu": used, "requests.memory": "1Gi"}),
        )
    };
    let fits = with_used("2").withheld();
    assert_eq!(fitted(&litellm(), None, &fits).unwrap()["limits"]["cpu"], "250m");
    let full = with_used("3");
    assert!(fitted(&litellm(), None, &full).unwrap_err().contains("`team`"));
    let error = fitted(&litellm(), None, &full.withheld()).unwrap_err();
    assert!(error.starts_with("ExceedsQuota: "), "{error}");
    for secret in ["team", "cpu", "memory"] {
        assert!(!error.contains(secret), "{error}");
    }
    assert!(
        !error.contains(|letter: char| letter.is_ascii_digit()),
        "no amount: {error}"
    );
}

#[test]
fn a_pod_of_a_stranger_shows_no_amount_of_a_limit_range_and_is_left_alone_where_it_would_have_to() {
    let settings: Value = serde_json::from_str(SETTINGS).unwrap();
    for allowed in [
        // The API server fills in the default, which nobody else has to be told.
        json!({"type": "Container", "default": {"cpu": "300m"}, "defaultRequest": {"cpu": "70m"}}),
        json!({"type": "Container", "max": {"cpu": "300m", "memory": "128Mi"}, "min": {"memory": "32Mi"}}),
        json!({"type": "Pod", "max": {"memory": "4Gi"}}),
    ] {
        let found = fitted(&litellm(), None, &range(json!([allowed])).withheld());
        assert_eq!(found, Ok(settings.clone()), "{allowed}");
    }
    for refused in [
        json!({"type": "Container", "min": {"memory": "33Mi"}}),
        json!({"type": "Container", "max": {"memory": "127Mi"}}),
        json!({"type": "Container", "default": {"cpu": "9m"}}),
        json!({"type": "Container", "maxLimitRequestRatio": {"memory": "3"}}),
        json!({"type": "Pod", "max": {"memory": "1Gi"}}),
    ] {
        let error = fitted(&litellm(), None, &range(json!([refused])).withheld()).unwrap_err();
        assert!(error.starts_with("OutsideLimitRange: "), "{error}");
        assert!(
            !error.contains("`range`") && !error.contains(|letter: char| letter.is_ascii_digit()),
            "{error}"
        );
    }
    // What the pod itself states may fit.
    let narrow = range(json!([{"type": "Container", "min": {"memory": "33Mi"}}])).withheld();
    let stated = json!({"requests": {"memory": "40Mi"}});
    assert_eq!(
        fitted(&litellm(), Some(stated), &narrow).unwrap()["requests"]["memory"],
        "40Mi"
    );
    // A limit alone is a request as well before defaults are filled in.
    let alone: ResourceRequirements = serde_json::from_value(json!({"limits": {"cpu": "100m"}})).unwrap();
    let spec = litellm();
    let place = Place {
        spec: &spec,
        position: 0,
    };
    let default = json!({"type": "Container", "default": {"cpu": "300m"}, "defaultRequest": {"cpu": "200m"}});
    let found = fit(place, alone.clone(), None, &range(json!([default])).withheld());
    assert!(found.is_ok_and(|found| found == alone));
}

#[test]
fn what_a_quota_demands_of_every_container_is_stated() {
    let limits = quota(
        json!({"hard": {"limits.cpu": "4", "limits.memory": "8Gi", "requests.cpu": "4", "pods": "9"}}),
        json!({"limits.cpu": "0", "limits.memory": "0", "requests.cpu": "0"}),
    );
    let expected =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "128Mi"}});
    assert_eq!(fitted(&litellm(), None, &limits), Ok(expected));
    let stated = json!({"limits": {"cpu": "2"}});
    assert_eq!(
        fitted(&litellm(), Some(stated), &limits).unwrap()["limits"]["cpu"],
        "2"
    );
}

#[test]
fn a_quota_of_other_pods_demands_nothing() {
    for scope in ["Terminating", "BestEffort"] {
        let limits = quota(json!({"hard": {"limits.cpu": "4"}, "scopes": [scope]}), json!({}));
        let found = fitted(&litellm(), None, &limits).unwrap();
        assert_eq!(found["limits"].get("cpu"), None, "{scope}");
    }
    let of_class = |operator: &str| {
        let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": ["high"]});
        let selector = json!({"matchExpressions": [expression]});
        let limits = quota(
            json!({"hard": {"limits.cpu": "4"}, "scopeSelector": selector}),
            json!({}),
        );
        fitted(&litellm(), None, &limits).unwrap()["limits"]
            .get("cpu")
            .cloned()
    };
    assert_eq!(of_class("In"), None);
    assert_eq!(of_class("NotIn"), Some(json!("250m")));
}

#[test]
fn a_pod_that_states_nothing_stays_out_of_a_quota_of_those_that_do() {
    let limits = quota(
        json!({"hard": {"limits.cpu": "4"}, "scopes": ["NotBestEffort"]}),
        json!({"limits.cpu": "0"}),
    );
    let found = fitted(&spec(json!({})), None, &limits).unwrap();
    assert_eq!(found, json!({}));
    assert!(fitted(&litellm(), None, &limits).unwrap()["limits"]["cpu"] == "250m");
}

#[test]
fn a_pod_for_which_a_quota_has_room_without_the_sidecar_alone_is_not_injected() {
    let with_used = |used: &str| {
        let limits = quota(
            json!({"hard": {"limits.memory": "4Gi"}}),
            json!({"limits.memory": used}),
        );
        fitted(&litellm(), None, &limits)
    };
    assert!(with_used("2Gi").is_ok());
    let error = with_used("3Gi").unwrap_err();
    assert!(
        error.starts_with("ExceedsQuota: ") && error.contains("limits.memory") && error.contains("`team`"),
        "{error}"
    );
    assert!(
        with_used("3500Mi").is_ok(),
        "the pod is refused without it as well"
    );
}

#[test]
fn an_init_container_that_takes_more_than_all_others_leaves_room_for_the_sidecar() {
    let mut pod = litellm();
    let migration = json!({"name": "migrate", "resources": {"limits": {"memory": "2Gi"}}});
    pod.init_containers = Some(vec![serde_json::from_value(migration).unwrap()]);
    let limits = quota(
        json!({"hard": {"limits.memory": "2Gi"}}),
        json!({"limits.memory": "0"}),
    );
    let fits = |position| {
        let place = Place { spec: &pod, position };
        fit(place, serde_json::from_str(SETTINGS).unwrap(), None, &limits).is_ok()
    };
    assert!(fits(1), "it starts when that has ended");
    assert!(!fits(0), "it runs beside that");
}

#[test]
fn a_limit_range_fills_in_raises_and_lowers() {
    for (item, expected) in [
        (
            json!({"min": {"cpu": "50m", "memory": "64Mi"}}),
            json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}),
        ),
        (
            json!({"max": {"cpu": "500m", "memory": "64Mi"}}),
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}),
        ),
        (
            json!({"default": {"cpu": "5m"}}),
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "10m", "memory": "128Mi"}}),
        ),
        (
            json!({"maxLimitRequestRatio": {"memory": "2", "cpu": "4"}}),
            json!({"requests": {"cpu": "10m", "memory": "67108864"}, "limits": {"cpu": "10m", "memory": "128Mi"}}),
        ),
    ] {
        let mut item = item;
        item["type"] = json!("Container");
        assert_eq!(
            fitted(&litellm(), None, &range(json!([item]))),
            Ok(expected),
            "{item}"
        );
    }
}

#[test]
fn what_a_limit_range_leaves_no_sidecar_for_is_named() {
    let reason =
        |item: Value, stated: Option<Value>| fitted(&litellm(), stated, &range(json!([item]))).unwrap_err();
    for (item, stated, expected) in [
        (
            json!({"type": "Container", "max": {"memory": "8Mi"}}),
            None,
            "below the 16Mi",
        ),
        (
            json!({"type": "Container", "max": {"memory": "64Mi"}}),
            Some(json!({"limits": {"memory": "128Mi"}})),
            "above the maximum of a container",
        ),
        (
            json!({"type": "Container", "min": {"cpu": "1"}}),
            Some(json!({"requests": {"cpu": "20m"}})),
            "below the minimum",
        ),
        (
            json!({"type": "Pod", "max": {"memory": "1Gi"}}),
            None,
            "above the maximum of memory of a pod",
        ),
    ] {
        let error = reason(item, stated);
        assert!(
            error.starts_with("OutsideLimitRange: ") && error.contains("`range`") && error.contains(expected),
            "{error}"
        );
    }
}
