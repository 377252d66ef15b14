//! `docs/injection.md` and `docs/reference/labels-and-annotations.md` list what users can meet.

use std::collections::BTreeSet;
use std::path::Path;

use mcp_auth_operator::inject::{Decision, NOT_INJECTED_REASONS, WARNING_REASONS, annotations};

use crate::input::Input;

const INJECTION: &str = include_str!("../../../docs/injection.md");
const KEYS: &str = include_str!("../../../docs/reference/labels-and-annotations.md");

fn decisions() -> Vec<Decision> {
    let inputs = Input::all();
    inputs.iter().map(|input| input.decide(&input.pod)).collect()
}

/// The first cells of a table's rows, as far as they are code.
fn listed(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect()
}

/// The refusals' table and the inputs are each other's complement: none is undocumented, and none untested.
#[test]
fn the_documentation_lists_every_refusal() {
    let (_, refusals) = INJECTION.split_once("## Refusals").unwrap();
    let (refusals, _) = refusals.split_once("## Warnings").unwrap();
    let decisions = decisions();
    let refused = decisions
        .iter()
        .filter_map(Decision::error)
        .map(|error| error.reason());
    // Their inputs are too long to be written down; `ports` and `properties` test them.
    let too_long = ["NoPortLeft", "CaTooLarge", "AnnotationsTooLarge"];
    // What depends on other objects than the pod is tested with those.
    let of_others = ["ExceedsQuota", "OutsideLimitRange"];
    let tested: BTreeSet<&str> = refused.chain(too_long).chain(of_others).collect();
    assert_eq!(listed(refusals), tested);
    let known: BTreeSet<&str> = NOT_INJECTED_REASONS.into_iter().collect();
    assert_eq!(listed(refusals), known);
}

#[test]
fn the_documentation_lists_every_warning() {
    let (_, warnings) = INJECTION.split_once("## Warnings").unwrap();
    let decisions = decisions();
    let of_inputs = decisions.iter().flat_map(Decision::warnings);
    let told: BTreeSet<&str> = of_inputs
        .map(|warning| warning.reason)
        // What depends on other objects than the pod is tested with those.
        .chain(["RoutesWithheld"])
        .collect();
    let known: BTreeSet<&str> = WARNING_REASONS.into_iter().chain(["NoResource"]).collect();
    assert_eq!(told, known);
    assert_eq!(listed(warnings), known);
}

/// Whole string literals of Rust that are keys, outside of tests.
fn keys_of_code(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let literals = product.split('"').filter(|literal| is_key(literal));
    literals.map(str::to_owned).collect()
}

/// Words of a chart's template that are keys. Reasons and versions of the group's API are none.
fn keys_of_template(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "-./_".contains(letter)));
    words.filter(|word| is_key(word)).map(str::to_owned).collect()
}

fn is_key(word: &str) -> bool {
    let name = word.strip_prefix("mcpauth.dev/").unwrap_or_default();
    !name.is_empty()
        && name
            .bytes()
            .all(|letter| letter.is_ascii_lowercase() || letter == b'-')
}

fn files(folder: &Path, found: &mut Vec<String>, keys: fn(&str) -> Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found, keys);
        } else if !path.ends_with("tests.rs") {
            found.extend(keys(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_documentation_lists_every_label_and_annotation_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for crate_folder in ["operator/src", "credentials/src", "crds/src", "cli/src"] {
        files(&root.join(crate_folder), &mut found, keys_of_code);
    }
    files(
        &root.join("charts/mcp-auth/templates"),
        &mut found,
        keys_of_template,
    );
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let rows = KEYS.lines().filter_map(|line| {
        let cell = line.strip_prefix("| ")?;
        let cell = cell.strip_prefix("label ").unwrap_or(cell);
        Some(cell.strip_prefix('`')?.split_once('`')?.0)
    });
    let rows: BTreeSet<&str> = rows.collect();
    assert_eq!(rows, found);

    let (_, pod) = KEYS.split_once("## Pod").unwrap();
    let (pod, _) = pod.split_once("## Secret").unwrap();
    let of_pod: BTreeSet<&str> = annotations::STATED
        .into_iter()
        .chain(annotations::WRITTEN)
        .collect();
    assert_eq!(listed(pod), of_pod, "and the label mcpauth.dev/inject");
}
