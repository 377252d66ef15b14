//! The pods of a resource as numbers, for the metrics.

use std::collections::BTreeMap;

use mcp_auth_protocol::sync::notices;

use super::pod_classes::PodClass;
use super::sidecars_synced::concerns;
use crate::inject::{NOT_INJECTED_REASONS, SkipReason, WARNING_REASONS, annotations};
use crate::metrics::{NOT_REVIEWED, OPTED_OUT, SIDECAR_PROBLEM};
use crate::pods::WatchedPod;
use crate::sidecars::Sidecar;
use crate::version_skew::is_too_old;

/// How many of the selected pods want attention.
#[derive(Debug, Default, PartialEq)]
pub struct Fleet {
    /// Without a sidecar, by the reason.
    pub not_injected: BTreeMap<&'static str, i64>,
    /// With something that injection or the sidecar warns of, or with a sidecar that has a problem of its own, by the reason.
    pub warnings: BTreeMap<&'static str, i64>,
    /// Such as get no sidecar, by the reason.
    pub skipped: BTreeMap<&'static str, i64>,
    /// With a sidecar that does not use the newest routes and tokens, or is not connected.
    pub behind: i64,
    /// With a sidecar of another version than the operator's.
    pub outdated: i64,
    /// With a sidecar that is older than this operator supports.
    pub too_old: i64,
}

/// Counts the `pods` of a resource of this server, and warnings also of those that need no sidecar. One that is starting
/// is neither behind nor without a sidecar for no reason.
pub fn count(pods: &[&PodClass], passed_over: &[&PodClass], server: &str) -> Fleet {
    let mut fleet = Fleet::default();
    for class in pods {
        for reason in class
            .sidecar()
            .map(|sidecar| notice_reasons(sidecar, server))
            .unwrap_or_default()
        {
            *fleet.warnings.entry(reason).or_default() += number(class);
        }
    }
    for class in passed_over {
        *fleet.skipped.entry(skip_reason(&class.pod)).or_default() += number(class);
    }
    for class in pods.iter().chain(passed_over) {
        for reason in warnings(&class.pod) {
            *fleet.warnings.entry(reason).or_default() += number(class);
        }
    }
    for class in pods {
        if !class.is_injected() {
            *fleet.not_injected.entry(reason(&class.pod)).or_default() += number(class);
            continue;
        }
        if !class.is_up_to_date() && !class.is_awaited() && !class.is_starting() {
            fleet.behind += number(class);
        }
        let version = class.sidecar().map(|sidecar| sidecar.version.as_str());
        if version.is_some_and(|version| !version.is_empty() && version != env!("CARGO_PKG_VERSION")) {
            fleet.outdated += number(class);
        }
        if class.sidecar().is_some_and(is_too_old) {
            fleet.too_old += number(class);
        }
    }
    fleet
}

fn number(class: &PodClass) -> i64 {
    i64::try_from(class.names.count).unwrap_or(i64::MAX)
}

/// One of a closed set: whoever may write the pod's annotations must not be able to make series.
fn reason(pod: &WatchedPod) -> &'static str {
    let text = pod.annotations().get(annotations::NOT_INJECTED);
    let stated = text.and_then(|text| text.split(':').next()).unwrap_or_default();
    let known = NOT_INJECTED_REASONS.iter().find(|known| **known == stated);
    known.copied().unwrap_or(NOT_REVIEWED)
}

/// Of a closed set as well.
fn skip_reason(pod: &WatchedPod) -> &'static str {
    let stated = pod.annotations().get(annotations::SKIPPED);
    let known = SkipReason::ALL.into_iter().map(SkipReason::as_str);
    let mut known = known.filter(|known| stated.is_some_and(|stated| stated == known));
    known.next().unwrap_or(OPTED_OUT)
}

/// Of a closed set too, each once.
fn warnings(pod: &WatchedPod) -> Vec<&'static str> {
    let text = pod.annotations().get(annotations::WARNINGS);
    let stated: Vec<&str> = text
        .map(|text| text.lines().filter_map(|line| line.split(':').next()).collect())
        .unwrap_or_default();
    let is_stated = |reason: &&'static str| stated.contains(reason);
    WARNING_REASONS.into_iter().filter(is_stated).collect()
}

/// What the sidecar says of this server or of the whole pod: of a closed set too, each once.
fn notice_reasons(sidecar: &Sidecar, server: &str) -> Vec<&'static str> {
    let is_stated = |reason: &&'static str| {
        let mut notices = sidecar.notices.iter();
        notices.any(|notice| notice.reason == *reason && concerns(notice, server))
    };
    let has_problem = sidecar.problems.iter().any(|problem| concerns(problem, server));
    let stated = notices::WARNINGS.into_iter().filter(is_stated);
    stated.chain(has_problem.then_some(SIDECAR_PROBLEM)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use mcp_auth_protocol::sync::Problem;
    use serde_json::json;

    use super::super::pod_classes::{PodWithSidecar, classes};
    use super::*;

    fn count(pods: &[PodWithSidecar], passed_over: &[Arc<WatchedPod>]) -> Fleet {
        let now = Timestamp::now();
        let passed_over: Vec<_> = passed_over.iter().map(|pod| (pod.clone(), None)).collect();
        let [pods, passed_over] = [pods, &passed_over].map(|pods| classes(pods, now));
        let [pods, passed_over] = [&pods, &passed_over].map(|classes| classes.iter().collect::<Vec<_>>());
        super::count(&pods, &passed_over, "tools")
    }

    fn pod(annotation: &str, text: &str) -> Arc<WatchedPod> {
        let metadata = json!({"name": "a", "annotations": {annotation: text}});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    #[test]
    fn pods_without_a_sidecar_count_by_their_reason_and_an_invented_one_makes_no_series() {
        let pods = [
            (
                pod(annotations::NOT_INJECTED, "HostNetwork: it uses the node's"),
                None,
            ),
            (pod(annotations::NOT_INJECTED, "invented"), None),
            (pod("other", ""), None),
        ];
        let fleet = count(&pods, &[]);
        assert_eq!(fleet.not_injected, [("HostNetwork", 1), (NOT_REVIEWED, 2)].into());
        assert_eq!((fleet.behind, fleet.outdated), (0, 0));
    }

    #[test]
    fn warnings_count_by_their_reason_also_of_pods_that_need_no_sidecar() {
        let text = "UnknownAnnotation: a\nUnknownAnnotation: b\nLowPort: c\nInvented: d";
        let warned = || pod(annotations::WARNINGS, text);
        let skipped = pod(annotations::SKIPPED, "NotLiteLlm");
        let fleet = count(&[(warned(), None)], &[warned(), skipped]);
        assert_eq!(fleet.warnings, [("UnknownAnnotation", 2), ("LowPort", 2)].into());
        assert_eq!(fleet.skipped, [("OptedOut", 1), ("NotLiteLlm", 1)].into());
    }

    #[test]
    fn what_sidecars_warn_of_counts_by_its_reason_once_for_each_pod() {
        let notice = |reason: &str| Problem::new(reason, "text");
        let sidecar = Sidecar {
            notices: vec![
                notice(notices::CLIENTS_COUNT_AS_EXTERNAL),
                notice(notices::STATIC_HEADER_DROPPED).for_server("tools"),
                notice(notices::STATIC_HEADER_DROPPED).for_server("tools"),
                notice(notices::SERVER_UNDER_OTHER_NAME).for_server("other"),
                notice(notices::COOKIE_NEVER_ARRIVED).for_server("tools"),
                notice("Invented"),
            ],
            ..Sidecar::default()
        };
        let sidecar = Sidecar {
            problems: vec![
                Problem::new("ListensElsewhere", "text"),
                Problem::new("ConfigUnreadable", "text").for_server("tools"),
            ],
            ..sidecar
        };
        let pods = [(pod(annotations::INJECTED, "0.0.1"), Some(Arc::new(sidecar)))];
        let fleet = count(&pods, &[]);
        let expected = [
            (notices::CLIENTS_COUNT_AS_EXTERNAL, 1),
            (notices::STATIC_HEADER_DROPPED, 1),
            (SIDECAR_PROBLEM, 1),
        ];
        assert_eq!(fleet.warnings, expected.into());
    }

    #[test]
    fn a_sidecar_that_is_gone_is_behind_and_one_of_another_version_is_outdated() {
        let sidecar = |version: &str, applied: &str| {
            Arc::new(Sidecar {
                version: version.into(),
                sent_revision: Some("2".into()),
                applied: Some(applied.into()),
                ..Sidecar::default()
            })
        };
        let injected = || pod(annotations::INJECTED, "0.0.1");
        let pods = [
            (injected(), None),
            (injected(), Some(sidecar(env!("CARGO_PKG_VERSION"), "2"))),
            (injected(), Some(sidecar("0.0.1", "2"))),
            (injected(), Some(sidecar("0.0.1", "1"))),
        ];
        let fleet = count(&pods, &[]);
        assert_eq!((fleet.behind, fleet.outdated), (2, 2));
    }
}
