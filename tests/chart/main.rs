//! The Helm chart, rendered with each set of values in `cases`, by each version of Helm that is there.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod comparison;
mod keys;
mod metadata;
mod preview;
mod shown;

use mcp_auth_tests::chart::{Case, helm_programs, inconsistencies, object_id};
use serde_json::{Value, json};

/// So many sets of values are at least tried.
const MIN_CASES: usize = 40;

#[test]
fn every_good_set_of_values_renders_what_it_is_meant_for() {
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| !case.is_refused())
        .collect();
    assert!(cases.len() >= MIN_CASES, "only {} sets of values", cases.len());
    let mut problems = Vec::new();
    for case in &cases {
        assert!(!case.expect.is_empty(), "{} expects nothing", case.name);
        for helm in helm_programs() {
            match case.rendered(&helm) {
                Ok(objects) => problems.extend(
                    [case.differences(&objects), inconsistencies(case, &objects)]
                        .concat()
                        .into_iter()
                        .map(|problem| format!("{}: {problem}", case.name)),
                ),
                Err(error) => problems.push(format!("{}: refused: {error}", case.name)),
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_bad_set_of_values_is_refused_with_a_sentence_that_names_the_value() {
    let cases: Vec<Case> = Case::all().into_iter().filter(Case::is_refused).collect();
    assert!(
        cases.len() >= MIN_CASES,
        "only {} bad sets of values",
        cases.len()
    );
    let mut problems = Vec::new();
    for case in &cases {
        for helm in helm_programs() {
            match case.rendered(&helm) {
                Ok(_) => problems.push(format!("{}: accepted", case.name)),
                Err(error) => problems.extend(
                    case.refused
                        .iter()
                        .filter(|sentence| !error.contains(*sentence))
                        .map(|sentence| format!("{}: `{sentence}` is not in: {error}", case.name)),
                ),
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// All that is wrong is told at once, and nothing that is right.
#[test]
fn several_mistakes_are_told_together() {
    let values = json!({
        "operator": {"image": {"repository": "operator:1.0"}, "hostNetwork": true},
        "sidecar": {"image": {"repository": ""}},
    });
    for helm in helm_programs() {
        let error = Case::with_values(values.clone()).rendered(&helm).unwrap_err();
        let told: Vec<&str> = error.lines().filter(|line| line.starts_with("- ")).collect();
        assert_eq!(told.len(), 3, "{error}");
        assert!(!error.contains("1.0:"), "{error}");
    }
}

#[test]
fn every_version_of_helm_renders_the_same() {
    let programs = helm_programs();
    assert!(
        programs.len() > 1,
        "MCPAUTH_TEST_HELM names one program alone: nothing to compare"
    );
    for case in Case::all().iter().filter(|case| !case.is_refused()) {
        let mut rendered = programs.iter().map(|helm| by_id(&case.rendered(helm).unwrap()));
        let first = rendered.next().unwrap();
        for other in rendered {
            assert_eq!(first, other, "{}", case.name);
        }
    }
}

fn by_id(objects: &[Value]) -> std::collections::BTreeMap<String, Value> {
    objects
        .iter()
        .map(|object| (object_id(object), object.clone()))
        .collect()
}
