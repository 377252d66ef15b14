//! Each pod after the decision, as its snapshot shows it. A new file in `testdata` needs no code.

use mcp_auth_operator::inject::Decision;

use crate::input::Input;

#[test]
fn every_pod_comes_out_as_its_snapshot() {
    insta::glob!("testdata/*.yaml", |path| {
        let input = Input::read(path);
        let decision = input.decide(&input.pod);
        let mut report = format!("decision: {}\n", decision.reason());
        let patch = match &decision {
            Decision::Skip { patch, .. } => Some(patch),
            Decision::Inject { patch, warnings } => {
                for warning in warnings {
                    report += &format!("warning: {}: {}\n", warning.reason, warning.message);
                }
                Some(patch)
            }
            Decision::Deny(error) => {
                report += &format!("refused: {error}\n");
                None
            }
            Decision::AllowWithoutSidecar { error, patch } => {
                report += &format!("left alone: {error}\n");
                Some(patch)
            }
        };
        if let Some(patch) = patch.filter(|patch| !patch.is_empty()) {
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
