//! Restart decision: whether a workload is restarted now. A pure function of the workload and of what it needs.

use std::collections::BTreeSet;

use super::causes::Cause;
use super::workload::{Workload, WorkloadName};

#[derive(Debug, Eq, PartialEq)]
pub enum Decision {
    Restart,
    /// And look again; why.
    Wait(String),
    /// It was restarted for all of it.
    Done,
    Impossible(String),
}

/// `new` is what it was not restarted for yet, `busy` a workload of the namespace that is being replaced.
pub fn decide(
    workload: &Workload,
    new: &BTreeSet<Cause>,
    is_unknown: bool,
    busy: Option<&WorkloadName>,
) -> Decision {
    if let Some(why) = workload.is_not_restartable() {
        return Decision::Impossible(why.to_owned());
    }
    if new.is_empty() && !workload.is_rolling() {
        return Decision::Done;
    }
    if workload.is_rolling() {
        return Decision::Wait("its pods are being replaced, or not all of them are available".to_owned());
    }
    if let Some(busy) = busy {
        return Decision::Wait(format!(
            "the pods of {busy} are being replaced, or not all of them are available"
        ));
    }
    // Restarted now it would be restarted once more for what a pod says next.
    if is_unknown {
        return Decision::Wait("not all of its pods have said what they need".to_owned());
    }
    Decision::Restart
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(change: serde_json::Value) -> Workload {
        let mut object = json!({
            "metadata": {"name": "litellm", "generation": 2, "resourceVersion": "1"},
            "spec": {"replicas": 2, "template": {"metadata": {}}},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
        });
        json_patch::merge(&mut object, &change);
        Workload::new("Deployment", object)
    }

    fn new() -> BTreeSet<Cause> {
        [Cause::ServerRemoved { server: "a".into() }].into()
    }

    #[test]
    fn a_workload_at_rest_is_restarted_once_for_each_cause() {
        let at_rest = deployment(json!({}));
        assert_eq!(decide(&at_rest, &new(), false, None), Decision::Restart);
        assert_eq!(decide(&at_rest, &BTreeSet::new(), false, None), Decision::Done);
    }

    #[test]
    fn nothing_is_restarted_into_a_rollout_its_own_or_another_s_or_before_all_is_known() {
        for change in [
            json!({"status": {"observedGeneration": 1}}),
            json!({"status": {"updatedReplicas": 1}}),
            json!({"status": {"availableReplicas": 1}}),
            json!({"status": {"replicas": 3}}),
            json!({"status": null}),
        ] {
            let rolling = deployment(change.clone());
            assert!(
                matches!(decide(&rolling, &new(), false, None), Decision::Wait(_)),
                "{change}"
            );
        }
        let at_rest = deployment(json!({}));
        let other = WorkloadName {
            kind: "Deployment".into(),
            name: "other".into(),
        };
        let wait = decide(&at_rest, &new(), false, Some(&other));
        assert!(
            matches!(&wait, Decision::Wait(why) if why.contains("Deployment other")),
            "{wait:?}"
        );
        assert!(matches!(decide(&at_rest, &new(), true, None), Decision::Wait(_)));
    }

    #[test]
    fn what_a_restart_would_not_replace_is_said_to_be_impossible() {
        for (kind, spec) in [
            ("Deployment", json!({"paused": true})),
            ("StatefulSet", json!({"updateStrategy": {"type": "OnDelete"}})),
            ("DaemonSet", json!({"updateStrategy": {"type": "OnDelete"}})),
            (
                "StatefulSet",
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
            ),
        ] {
            let workload = Workload::new(kind, json!({"metadata": {"name": "litellm"}, "spec": spec}));
            assert!(
                matches!(decide(&workload, &new(), false, None), Decision::Impossible(_)),
                "{kind}"
            );
        }
    }
}
