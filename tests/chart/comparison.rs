//! docs/chart-comparison.md: what its first column says of this chart is what the chart does.

use std::collections::BTreeMap;
use std::path::Path;

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use serde::Deserialize;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/chart-comparison.md");

/// What shows a row; comparison.yaml says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Proof {
    /// What the chart comes out as by default.
    expect: BTreeMap<String, BTreeMap<String, Value>>,
    values: Value,
    /// What the values come out as.
    becomes: BTreeMap<String, BTreeMap<String, Value>>,
    /// Objects that are not there with the values, and are without.
    gone: Vec<String>,
    /// Keys that there are none of, with dots.
    lacks: Option<Vec<String>>,
    /// Name of a test of the chart.
    test: Option<String>,
    /// A file of the repository, and a text in it.
    file: Option<(String, String)>,
}

impl Proof {
    fn shows_something(&self) -> bool {
        let shows = !self.expect.is_empty() || !self.becomes.is_empty() || !self.gone.is_empty();
        shows || self.test.is_some() || self.file.is_some()
    }
}

/// Name and first column of each row.
fn rows() -> Vec<(&'static str, &'static str)> {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    rows.filter(|(name, _)| !name.starts_with('|') && !name.starts_with("**"))
        .collect()
}

fn repository_file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_row_is_shown_by_the_chart() {
    let proofs: BTreeMap<String, Proof> =
        serde_saphyr::from_str(&repository_file("tests/chart/comparison.yaml")).unwrap();
    let values: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(format!("{}/values.yaml", chart())).unwrap())
            .unwrap();
    let helm = &helm_programs()[0];
    let by_default = Case::with_values(Value::Null).rendered(helm).unwrap();
    let rows = rows();
    assert!(rows.len() > 50, "{} rows", rows.len());
    let mut problems = Vec::new();
    for (name, said) in &rows {
        let Some(proof) = proofs.get(*name) else {
            problems.push(format!("{name}: nothing shows it"));
            continue;
        };
        let is_said = !said.starts_with("no");
        // A row may say both, as that of selectors.
        if is_said != proof.shows_something() || (!is_said && proof.lacks.is_none()) {
            problems.push(format!(
                "{name}: the page says `{said}`, and that is not what is shown"
            ));
        }
        let mut case = Case::with_values(Value::Null);
        case.expect.clone_from(&proof.expect);
        problems.extend(
            case.differences(&by_default)
                .into_iter()
                .map(|problem| format!("{name}: by default: {problem}")),
        );
        let mut case = Case::with_values(proof.values.clone());
        case.expect.clone_from(&proof.becomes);
        case.absent.clone_from(&proof.gone);
        match case.rendered(helm) {
            Ok(objects) => problems.extend(
                case.differences(&objects)
                    .into_iter()
                    .map(|problem| format!("{name}: {problem}")),
            ),
            Err(error) => problems.push(format!("{name}: refused: {error}")),
        }
        for key in proof.lacks.iter().flatten() {
            if values.pointer(&format!("/{}", key.replace('.', "/"))).is_some() {
                problems.push(format!("{name}: there is a value {key}"));
            }
        }
        if let Some(test) = &proof.test {
            let tests = ["keys.rs", "main.rs", "apply.rs"]
                .map(|file| repository_file(&format!("tests/chart/{file}")));
            if !tests.iter().any(|text| text.contains(&format!("fn {test}()"))) {
                problems.push(format!("{name}: there is no test {test}"));
            }
        }
        if let Some((file, text)) = &proof.file
            && !repository_file(file).contains(text)
        {
            problems.push(format!("{name}: {file} has no `{text}`"));
        }
    }
    let known: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    problems.extend(
        proofs
            .keys()
            .filter(|name| !known.contains(&name.as_str()))
            .map(|name| format!("{name}: the page has no such row")),
    );
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
