//! What earlier settings and versions leave behind.

use super::*;

fn found(facts: &Facts, check: &str) -> Vec<crate::doctor::finding::Finding> {
    let findings = report(facts).findings;
    findings
        .into_iter()
        .filter(|finding| finding.check == check)
        .collect()
}

#[test]
fn a_status_in_a_namespace_that_is_no_longer_watched_is_called_old() {
    let mut facts = healthy();
    let mut operator = deployment(2);
    let watching = |namespace: &str| {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "operator", "args": ["--log=info", format!("--watch-namespace={namespace}")]},
        ]}}))
        .unwrap()
    };
    operator.spec.as_mut().unwrap().template = watching("llm");
    facts.deployment = Lookup::Found(operator.clone());
    assert_eq!(found(&facts, "watched"), []);

    operator.spec.as_mut().unwrap().template = watching("other");
    facts.deployment = Lookup::Found(operator);
    let [finding] = &found(&facts, "watched")[..] else {
        panic!("one finding");
    };
    assert_eq!(
        (finding.outcome, finding.subject.as_str()),
        (Outcome::Fault, "llm/tools")
    );
    assert!(
        finding.message.contains("changed last at 2026-12-01T00:00:00Z"),
        "{finding:?}"
    );
    assert!(finding.way_out.as_ref().unwrap().contains("watchNamespaces"));
}

fn with_selector(selector: Value, metadata: Value) -> Facts {
    let mut facts = healthy();
    let mut changed = serde_json::to_value(ready()).unwrap();
    changed["spec"]["podSelector"] = selector;
    for (key, value) in metadata.as_object().unwrap() {
        changed["metadata"][key] = value.clone();
    }
    facts.inventory.resources = vec![Arc::new(serde_json::from_value(changed).unwrap())];
    facts
}

#[test]
fn a_default_that_an_earlier_version_stored_is_named_with_the_command_that_takes_it_out() {
    let default = json!({"matchLabels": {"app.kubernetes.io/name": "litellm"}});
    let merged = json!({"matchLabels": {"app.kubernetes.io/name": "litellm", "app": "llm"}});
    let applied = |spec: Value| {
        let text = json!({"spec": spec}).to_string();
        json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": text}})
    };
    let owned = |fields: Value| {
        json!({"managedFields": [
            {"operation": "Apply", "manager": "kubectl", "fieldsV1": {"f:spec": fields}},
            {"operation": "Apply", "manager": "operator", "subresource": "status", "fieldsV1": {}},
        ]})
    };
    let label = json!({"f:podSelector": {"f:matchLabels": {"f:app.kubernetes.io/name": {}, "f:app": {}}}});
    for (selector, metadata, path) in [
        // What an absent one means.
        (&default, applied(json!({})), None),
        (
            &merged,
            applied(json!({"podSelector": {"matchLabels": {"app": "llm"}}})),
            Some("/matchLabels/app.kubernetes.io~1name\""),
        ),
        (
            &merged,
            owned(json!({"f:podSelector": {"f:matchLabels": {"f:app": {}}}})),
            Some("/matchLabels/app.kubernetes.io~1name\""),
        ),
        (&merged, applied(json!({"podSelector": merged})), None),
        (&merged, owned(label), None),
        // Written by a program that does not say what it wrote.
        (&merged, json!({}), None),
        (&json!({"matchLabels": {"app": "llm"}}), applied(json!({})), None),
    ] {
        let findings = found(&with_selector(selector.clone(), metadata.clone()), "podSelector");
        assert_eq!(
            findings.len(),
            usize::from(path.is_some()),
            "{selector} {metadata}"
        );
        for finding in findings {
            assert_eq!(finding.outcome, Outcome::Warning);
            let way_out = finding.way_out.unwrap();
            assert!(way_out.contains("kubectl patch msa tools -n llm"), "{way_out}");
            assert!(way_out.contains(path.unwrap()), "{way_out}");
        }
    }
}
