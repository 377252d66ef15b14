//! `docs/security-model.md` says what stops each threat, and the test that fails if it does not.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/security-model.md");

/// The threats of all tables with what their lines name as tests.
fn threats(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut threats = Vec::new();
    let mut is_in_table = false;
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            [_, "threat", _, "test", _] => is_in_table = true,
            [_, threat, _, tests, _] if is_in_table && !threat.starts_with("---") => {
                // A test's name is a sentence: within backquotes, of words and underscores.
                let names = tests.split('`').skip(1).step_by(2);
                threats.push((threat, names.filter(|name| name.contains('_')).collect()));
            }
            [_, _, _, _, _] => {}
            _ => is_in_table = false,
        }
    }
    threats
}

/// Names of functions below this folder that are tests: that have an attribute that makes them so.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests_in(&std::fs::read_to_string(&path).unwrap(), found);
        }
    }
}

fn tests_in(source: &str, found: &mut BTreeSet<String>) {
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let function = line
            .strip_prefix("async fn ")
            .or_else(|| line.strip_prefix("fn "));
        if let Some(function) = function {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                found.insert(name.to_owned());
            }
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
    }
}

#[test]
fn each_threat_names_a_test_that_exists() {
    let mut tests = BTreeSet::new();
    tests_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut tests);
    let threats = threats(PAGE);
    let is_there = |about: &str| threats.iter().any(|(threat, _)| threat.contains(about));
    assert!(
        is_there("SSRF") && is_there("`/proc/PID/environ`"),
        "both tables are read"
    );
    for (threat, named) in threats {
        assert!(!named.is_empty(), "{threat}: no test is named");
        for name in named {
            assert!(tests.contains(name), "{threat}: there is no test {name}");
        }
    }
}

#[test]
fn a_threat_without_a_test_and_a_function_that_is_none_are_noticed() {
    let page = "| threat | what stops it | test |\n|---|---|---|\n| one | x | `a_test`, `b_test` |\n| two | y | [z](z.md) |\n\n\
                | who | is | not |\n|---|---|---|\n| c | d | `e_f` |\n";
    assert_eq!(
        threats(page),
        [("one", vec!["a_test", "b_test"]), ("two", vec![])]
    );
    let mut found = BTreeSet::new();
    let source = "#[test]\nfn a_test() {}\nfn no_test() {}\n    #[tokio::test(start_paused = true)]\n    #[ignore = \"x\"]\n    async fn b_test() {\n";
    tests_in(source, &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a_test", "b_test"]);
}
