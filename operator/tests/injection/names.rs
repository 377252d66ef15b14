//! `docs/field-reports.md` and `docs/difficult-pods.md`: what their tables name is there, and what they say of pods is what
//! becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::input::Input;

const REPORTS: &str = include_str!("../../../docs/field-reports.md");
const PODS: &str = include_str!("../../../docs/difficult-pods.md");

/// The cells of each row of all tables, but for their heads.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |index: usize| lines.get(index + 1).is_some_and(|next| next.starts_with("|--"));
    let rows = lines
        .iter()
        .enumerate()
        .filter(|(index, line)| line.starts_with("| ") && !is_head(*index));
    rows.map(|(_, line)| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// What stands in backquotes.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Names of all test functions of the workspace.
fn tests_of_workspace() -> BTreeSet<String> {
    let mut folders = vec![root().to_owned()];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    let function = line.trim_start_matches("async ").strip_prefix("fn ");
                    if let Some((function, _)) = function.and_then(|rest| rest.split_once('(')) {
                        if is_test {
                            found.insert(function.to_owned());
                        }
                        is_test = false;
                    }
                    is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                }
            }
        }
    }
    found
}

#[test]
fn every_field_report_names_what_shows_its_verdict_and_that_is_there() {
    let tests = tests_of_workspace();
    assert!(tests.len() > 500, "only {} tests were found", tests.len());
    let pods = root().join("operator/tests/injection/testdata");
    let reports = rows(REPORTS);
    assert_eq!(reports.len(), 32);
    for report in reports {
        let [kind, source, verdict, shown_by] = report[..] else {
            panic!("{report:?}");
        };
        assert!(source.contains("](https://") && !verdict.is_empty(), "{kind}");
        for url in source.split("](https://github.com/").skip(1) {
            let path: Vec<&str> = url.split(')').next().unwrap().split('/').collect();
            assert!(
                matches!(path[..], [_, _, "issues" | "pull", number] if number.parse::<u32>().is_ok()),
                "{kind}: {path:?}"
            );
        }
        let mut named = 0;
        for name in code(shown_by).filter(|name| !name.starts_with("make ")) {
            let is_there = match name {
                path if path.contains('/') => root().join(path).exists(),
                pod if pod.ends_with(".yaml") => pods.join(pod).exists(),
                test => tests.contains(test),
            };
            assert!(is_there, "{kind}: {name} is not there");
            named += 1;
        }
        assert!(named > 0, "{kind}: nothing is named");
    }
}

#[test]
fn the_table_of_difficult_pods_says_what_becomes_of_each() {
    let inputs: BTreeMap<String, Input> = Input::all()
        .into_iter()
        .map(|input| (format!("{}.yaml", input.name), input))
        .collect();
    let mut listed = BTreeSet::new();
    for row in rows(PODS) {
        let [.., now, pod] = row[..] else {
            panic!("{row:?}");
        };
        let name = code(pod).next().unwrap();
        let input = &inputs[name];
        let decision = input.decide(&input.pod);
        let reasons: Vec<&str> = decision.warnings().iter().map(|warning| warning.reason).collect();
        let expected: Vec<&str> = [decision.reason()].into_iter().chain(reasons).collect();
        assert_eq!(code(now).collect::<Vec<_>>(), expected, "{name}");
        listed.insert(name);
    }
    let difficult = inputs.iter().filter(|(_, input)| input.litellm.is_some());
    for (name, _) in difficult {
        assert!(listed.contains(name.as_str()), "{name} is not listed");
    }
    assert!(listed.len() >= 41 + 40, "{}", listed.len());
}
