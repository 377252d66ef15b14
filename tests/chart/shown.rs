//! The values that documents and examples show.

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use mcp_auth_tests::documents::{examples, pages};
use serde_json::Value;

#[test]
fn the_values_that_examples_give_to_gitops_tools_are_taken() {
    let mut rendered = 0;
    for example in examples() {
        for object in example.yaml() {
            let places = ["/spec/values", "/spec/template/spec/source/helm/valuesObject"];
            for values in places.into_iter().filter_map(|place| object.pointer(place)) {
                for helm in helm_programs() {
                    let objects = Case::with_values(values.clone()).rendered(&helm);
                    assert!(objects.is_ok(), "{}: {objects:?}", example.path);
                    rendered += 1;
                }
            }
        }
    }
    assert!(rendered >= 2, "{rendered} sets of values were found");
}

#[test]
fn every_value_that_a_page_sets_is_one_of_the_chart() {
    let text = std::fs::read_to_string(format!("{}/values.yaml", chart())).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut checked, mut problems) = (0, Vec::new());
    for page in pages() {
        for command in page.commands() {
            // A `(` or `)` never stands in the name of a value.
            let set = command.split_whitespace().collect::<Vec<_>>();
            for pair in set.windows(2).filter(|pair| pair[0] == "--set") {
                let path = pair[1].trim_start_matches(['\'', '"']);
                let path = path.split('=').next().unwrap_or_default();
                checked += 1;
                if values.pointer(&format!("/{}", path.replace('.', "/"))).is_none() {
                    problems.push(format!("{}: {path}", page.path));
                }
            }
        }
    }
    assert!(
        problems.is_empty(),
        "values.yaml has no such value:\n{}",
        problems.join("\n")
    );
    assert!(checked >= 8, "{checked} values were found");
}
