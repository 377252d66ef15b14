//! The report of `status` for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anstyle::Style;
use mcp_auth_crds::reasons;

use super::report::{PodState, PodStatus, ServerStatus, StatusReport};
use crate::output::{BAD, Cell, GOOD, HEADING, PLAIN, UNKNOWN, WARNING, clean, duration, paint, table};

/// How many pods are told one by one why they have no sidecar.
const MAX_TOLD: usize = 5;

/// `scope` is what was looked at, as in "the namespace llm".
pub fn render(report: &StatusReport, scope: &str) -> String {
    let mut text = String::new();
    if report.servers.is_empty() {
        let _ = writeln!(text, "No McpServerAuth resources in {}.", clean(scope));
    } else {
        text.push_str(&servers(&report.servers));
    }
    match &report.pods {
        None => text.push_str("\nThe pods are not shown: you may not list them.\n"),
        Some(pods) if pods.is_empty() && !report.servers.is_empty() => {
            text.push_str("\nNo pod is selected by these resources, and none has a sidecar.\n");
        }
        Some(pods) if pods.is_empty() => {}
        Some(found) => {
            text.push('\n');
            text.push_str(&pods(found));
        }
    }
    text.push_str(&attention(report));
    text
}

fn servers(servers: &[ServerStatus]) -> String {
    let rows: Vec<Vec<Cell>> = servers
        .iter()
        .map(|server| {
            let token = server.token.as_ref();
            let kind = token.and_then(|token| token.r#type.clone());
            let expires_in = token.and_then(|token| token.expires_in_seconds);
            vec![
                server.namespace.clone().into(),
                server.name.clone().into(),
                server.server.clone().into(),
                Cell::styled(server.ready.clone(), style(server)),
                server.reason.clone().into(),
                kind.unwrap_or_else(|| "-".to_owned()).into(),
                expiry(expires_in),
                server.sidecars.clone().unwrap_or_else(|| "-".to_owned()).into(),
            ]
        })
        .collect();
    let headings = [
        "NAMESPACE",
        "NAME",
        "SERVER",
        "READY",
        "REASON",
        "TOKEN",
        "EXPIRES IN",
        "SIDECARS",
    ];
    table(&headings, &rows)
}

fn style(server: &ServerStatus) -> Style {
    match server.ready.as_str() {
        "True" if reasons::WARNINGS.contains(&server.reason.as_str()) => WARNING,
        "True" => GOOD,
        "False" => BAD,
        _ => UNKNOWN,
    }
}

fn expiry(seconds: Option<i64>) -> Cell {
    match seconds {
        None => Cell::from("-"),
        Some(seconds) if seconds <= 0 => Cell::styled("expired", BAD),
        Some(seconds) => Cell::from(duration(seconds)),
    }
}

fn pods(pods: &[PodStatus]) -> String {
    let rows: Vec<Vec<Cell>> = pods
        .iter()
        .map(|pod| {
            let version = pod.version.clone().unwrap_or_else(|| "-".to_owned());
            let (state, style) = match (pod.sidecar, &pod.skipped) {
                (PodState::Injected, _) => ("yes".to_owned(), GOOD),
                (PodState::Missing, _) => ("missing".to_owned(), BAD),
                (PodState::NotNeeded, Some(reason)) => (format!("not needed: {reason}"), PLAIN),
                (PodState::NotNeeded, None) => ("not needed".to_owned(), PLAIN),
            };
            vec![
                pod.namespace.clone().into(),
                pod.name.clone().into(),
                Cell::styled(state, style),
                match pod.outdated {
                    true => Cell::styled(format!("{version} (outdated)"), WARNING),
                    false => version.into(),
                },
                match pod.servers.is_empty() {
                    true => "-".into(),
                    false => pod.servers.join(", ").into(),
                },
            ]
        })
        .collect();
    table(&["NAMESPACE", "POD", "SIDECAR", "VERSION", "SERVERS"], &rows)
}

/// What wants attention, in sentences.
fn attention(report: &StatusReport) -> String {
    let mut text = String::new();
    for server in &report.servers {
        if let Some(message) = &server.message {
            let name = paint(&format!("{}/{}", server.namespace, server.name), HEADING);
            let _ = writeln!(text, "{name} {}: {}", clean(&server.reason), clean(message));
        }
    }
    let pods = report.pods.iter().flatten();
    let told = pods.filter_map(|pod| Some((pod, pod.not_injected.as_ref()?)));
    for (pod, why) in told.take(MAX_TOLD) {
        let name = paint(&format!("{}/{}", pod.namespace, pod.name), HEADING);
        let _ = writeln!(text, "{name} has no sidecar: {}", clean(why));
    }
    let missing = report.pods.iter().flatten();
    let missing: Vec<_> = missing.filter(|pod| pod.sidecar == PodState::Missing).collect();
    if let Some(first) = missing.first() {
        let what = match missing.len() {
            1 => "1 pod runs".to_owned(),
            count => format!("{count} pods run"),
        };
        let _ = writeln!(
            text,
            "{what} without the sidecar: `kubectl mcp-auth explain {} -n {}` says why",
            clean(&first.name),
            clean(&first.namespace)
        );
    }
    text.push_str(&outdated(report));
    match text.is_empty() {
        true => text,
        false => format!("\n{text}"),
    }
}

/// Pods that keep an earlier sidecar, with the commands that give them the new one.
fn outdated(report: &StatusReport) -> String {
    let pods = report.pods.iter().flatten();
    let outdated: Vec<_> = pods.filter(|pod| pod.outdated).collect();
    let (Some(installed), false) = (&report.installed_version, outdated.is_empty()) else {
        return String::new();
    };
    let what = match outdated.len() {
        1 => "1 pod keeps".to_owned(),
        count => format!("{count} pods keep"),
    };
    let mut text = format!(
        "{what} the sidecar of another version than {}, which is installed, until a restart:\n",
        clean(installed)
    );
    for command in restarts(&outdated) {
        let _ = writeln!(text, "    {}", clean(&command));
    }
    text
}

/// One command for each workload; a pod that has none is only named.
fn restarts(pods: &[&PodStatus]) -> BTreeSet<String> {
    let command = |pod: &&PodStatus| match &pod.workload {
        Some(workload) => format!("kubectl rollout restart {workload} -n {}", pod.namespace),
        None => format!(
            "pod {} in the namespace {} has no workload: make it anew",
            pod.name, pod.namespace
        ),
    };
    pods.iter().map(command).collect()
}
