//! `docs/injection.md` lists what users can meet.

use std::collections::BTreeSet;

use mcp_auth_operator::inject::{Decision, NOT_INJECTED_REASONS, annotations};

use crate::input::Input;

/// The refusals' table and the inputs are each other's complement: none is undocumented, and none untested.
#[test]
fn the_documentation_lists_every_refusal_and_every_annotation() {
    let text = include_str!("../../../docs/injection.md");
    let (_, refusals) = text.split_once("## Refusals").unwrap();
    let (refusals, _) = refusals.split_once("## Warnings").unwrap();
    let listed: BTreeSet<&str> = refusals
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect();
    let decisions: Vec<Decision> = Input::all()
        .iter()
        .map(|input| input.decide(&input.pod))
        .collect();
    let refused = decisions.iter().filter_map(|decision| match decision {
        Decision::Deny(error) | Decision::AllowWithoutSidecar { error, .. } => Some(error.reason()),
        _ => None,
    });
    // Their inputs are too long to be written down; `ports` and `properties` test them.
    let tested: BTreeSet<&str> = refused.chain(["NoPortLeft", "CaTooLarge"]).collect();
    assert_eq!(listed, tested);
    let known: BTreeSet<&str> = NOT_INJECTED_REASONS.into_iter().collect();
    assert_eq!(listed, known);
    let (_, warnings) = text.split_once("## Warnings").unwrap();
    let told = decisions.iter().flat_map(|decision| match decision {
        Decision::Inject { warnings, .. } => warnings.as_slice(),
        _ => &[],
    });
    for warning in told {
        let reason = warning.reason;
        assert!(
            warnings.contains(&format!("`{reason}`")),
            "{reason} is not documented"
        );
    }
    for key in [
        annotations::INJECT_LABEL,
        annotations::CONTAINER,
        annotations::CONFIG_PATH,
        annotations::PORT,
        annotations::RESOURCES,
        annotations::INBOUND,
        annotations::ON_REFUSAL,
        annotations::START_TIMEOUT,
        annotations::KEEPALIVE,
        annotations::AUDIT_OUTPUT,
        annotations::AUDIT_VOLUME,
        annotations::OTLP_ENDPOINT,
        annotations::OTLP_HEADERS_SECRET,
        annotations::TRACING,
        annotations::INJECTED,
        annotations::SKIPPED,
        annotations::NOT_INJECTED,
        annotations::WARNINGS,
        annotations::WRAPPER,
    ] {
        assert!(
            text.contains(&format!("`{key}`")) || text.contains(&format!("`{key}:")),
            "{key}"
        );
    }
}
