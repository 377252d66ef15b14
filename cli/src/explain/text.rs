//! The explanation for people.

use std::fmt::Write as _;

use super::{ExplainedServer, Explanation, Ports, SidecarContainer};
use crate::output::{BAD, Cell, GOOD, HEADING, PLAIN, UNKNOWN, WARNING, clean, paint, table};
use crate::status::PodState;

pub fn render(explanation: &Explanation) -> String {
    let (state, style) = match explanation.sidecar {
        PodState::Injected => ("has the sidecar", GOOD),
        PodState::Missing => ("has no sidecar, and ought to have one", BAD),
        PodState::NotNeeded => ("has no sidecar, and needs none", PLAIN),
    };
    let name = format!("{}/{}", explanation.namespace, explanation.pod);
    let mut text = format!("{} {}\n", paint(&name, HEADING), paint(state, style));
    let _ = writeln!(
        text,
        "Why: {} ({})",
        clean(&explanation.reason),
        explanation.decision
    );
    if let Some(way_out) = &explanation.way_out {
        let _ = writeln!(text, "Way out: {}", clean(way_out));
    }
    if let Some(container) = &explanation.container {
        text.push_str(&sidecar(container));
    }
    if let Some(found) = &explanation.ports {
        text.push('\n');
        text.push_str(&ports(found));
    }
    text.push('\n');
    match explanation.servers.is_empty() {
        true => text.push_str("No McpServerAuth of the namespace selects it.\n"),
        false => text.push_str(&servers(&explanation.servers)),
    }
    for warning in &explanation.warnings {
        let _ = writeln!(text, "{} {}", paint("Warning:", WARNING), clean(warning));
    }
    text
}

fn sidecar(container: &SidecarContainer) -> String {
    let state = match (&container.waiting, container.ready) {
        (Some(reason), _) => format!("waiting: {reason}"),
        (None, true) => "ready".to_owned(),
        (None, false) => "not ready".to_owned(),
    };
    let version = container.version.as_deref().unwrap_or("unknown");
    let mut text = format!(
        "Sidecar: {}, version {}, restarts: {}\n",
        clean(&state),
        clean(version),
        container.restarts
    );
    if let Some(path) = &container.litellm_configuration {
        let _ = writeln!(text, "LiteLLM's own configuration: {}", clean(path));
    }
    text
}

fn ports(ports: &Ports) -> String {
    let rows = [
        ("users to LiteLLM, at the sidecar", &ports.inbound),
        ("LiteLLM, behind the sidecar", &ports.litellm),
        ("LiteLLM to MCP servers, at the sidecar", &ports.outbound),
        ("probes and metrics of the sidecar", &ports.health),
    ];
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .filter_map(|(what, address)| Some(vec![address.clone()?.into(), what.into()]))
        .collect();
    table(&["ADDRESS", "WHAT"], &rows)
}

fn servers(servers: &[ExplainedServer]) -> String {
    let list = |names: &[String]| match names.is_empty() {
        true => "-".to_owned(),
        false => names.join(","),
    };
    let rows: Vec<Vec<Cell>> = servers
        .iter()
        .map(|server| {
            let style = match server.ready.as_str() {
                "True" => GOOD,
                "False" => BAD,
                _ => UNKNOWN,
            };
            let known = match server.known_at_admission {
                Some(true) => "yes",
                Some(false) => "no, since then",
                None => "-",
            };
            vec![
                server.server.clone().into(),
                server.resource.clone().into(),
                Cell::styled(server.ready.clone(), style),
                known.into(),
                list(&server.cookies).into(),
                list(&server.headers).into(),
                server.url.clone().into(),
            ]
        })
        .collect();
    table(
        &[
            "SERVER",
            "RESOURCE",
            "READY",
            "KNOWN AT START",
            "COOKIES",
            "HEADERS",
            "URL",
        ],
        &rows,
    )
}
