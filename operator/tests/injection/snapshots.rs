//! Each pod after the decision, as its snapshot shows it. A new file in `testdata` needs no code.

use crate::input::Input;

#[test]
fn every_pod_comes_out_as_its_snapshot() {
    insta::glob!("testdata/*.yaml", |path| {
        let input = Input::read(path);
        let decision = input.decide(&input.pod);
        let mut report = format!("decision: {}\n", decision.reason());
        for warning in decision.warnings() {
            report += &format!("warning: {}: {}\n", warning.reason, warning.message);
        }
        if let Some(error) = decision.error() {
            report += &format!("{}: {error}\n", decision.outcome());
        }
        if let Some(patch) = decision.patch().filter(|patch| !patch.is_empty()) {
            let mut pod = input.pod.clone();
            json_patch::patch(&mut pod, patch).unwrap();
            report += &format!("---\n{}", serde_saphyr::to_string(&pod).unwrap());
        }
        insta::with_settings!({
            omit_expression => true,
            prepend_module_to_snapshot => false,
            snapshot_path => "testdata/snapshots",
        }, {
            insta::assert_snapshot!("pod", report);
        });
    });
}
