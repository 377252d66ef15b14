//! Difficult pods: those of `testdata` that say what is true of their LiteLLM without injection. Each is untouched, or LiteLLM
//! runs with its own configuration and is reached through the sidecar alone; `docs/difficult-pods.md` has them as a table.

use mcp_auth_operator::inject::Decision;

use crate::api_server::admitted;
use crate::input::Input;
use crate::runs::{Original, StandIns};

#[test]
fn each_difficult_pod_is_untouched_or_litellm_runs_with_its_configuration_behind_the_sidecar() {
    let stand_ins = StandIns::new();
    let (mut injected, mut untouched) = (0, 0);
    for input in Input::all() {
        let Some(litellm) = &input.litellm else {
            continue;
        };
        let original = Original {
            pod: &input.pod,
            port: litellm.port,
            config: litellm.config.as_deref(),
        };
        for pod in [input.pod.clone(), admitted(&input.pod)] {
            let decision = input.decide(&pod);
            let mut after = pod.clone();
            if let Some(patch) = decision.patch() {
                json_patch::patch(&mut after, patch).unwrap();
            }
            if let Decision::Inject { .. } = decision {
                injected += 1;
                stand_ins.assert_behind_the_sidecar(&input.name, &original, &after);
            } else {
                untouched += 1;
                assert_eq!(after["spec"], pod["spec"], "{}", input.name);
            }
        }
    }
    assert!(
        injected >= 40 && untouched >= 20,
        "{injected} injected, {untouched} untouched"
    );
}
