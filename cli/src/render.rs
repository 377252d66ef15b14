//! `render`: what injection would make of the pods in a file, as a unified diff. The webhook's own code decides, by what the
//! cluster has, or by the chart's values without one (`installation`).

mod installation;

use mcp_auth_operator::{InjectCommandError, Installation, Manifests, Preview, is_standard_input, previews};
use serde::Serialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::args::RenderArgs;
use crate::cluster::ClusterOptions;
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::output::{self, BAD, GOOD, HEADING, PLAIN, UNKNOWN, paint};
use installation::Source;

/// Unchanged lines around a change, as `diff -u` has it.
const CONTEXT_LINES: usize = 3;

/// What `--output` prints of a pod.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenderedPod<'a> {
    pod: &'a str,
    decision: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    warnings: Vec<String>,
    before: &'a Value,
    /// None where the pod would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Value>,
}

pub async fn run(options: &ClusterOptions, args: &RenderArgs) -> Result<ExitStatus, CliError> {
    let unusable = |error: &dyn std::error::Error| CliError::Manifests(error.to_string());
    let files = args
        .resources
        .iter()
        .chain(&args.chart.values)
        .chain([&args.file]);
    if files.filter(|path| is_standard_input(path)).count() > 1 {
        return Err(unusable(&InjectCommandError::StandardInputTwice));
    }
    let manifests = Manifests::read(&args.file, &args.resources, &args.namespace);
    let mut manifests = manifests.map_err(|error| unusable(&error))?;
    let source = Source::load(options, args, &mut manifests).await?;
    for note in &source.notes {
        output::print_error(&format!("note: {}", output::clean(note)));
    }
    let installation = Installation {
        settings: &source.settings,
        not_asked: &|pod| source.not_asked(pod),
    };
    let previews = previews(&manifests, &installation).map_err(|error| unusable(&error))?;
    output::print(&match args.output {
        Some(format) => {
            let pods: Vec<RenderedPod<'_>> = previews.iter().map(RenderedPod::new).collect();
            output::structured(&pods, format)
        }
        None => previews.iter().map(render).collect(),
    })?;
    // A message says why the pod gets no sidecar although it should have one.
    Ok(match previews.iter().any(|preview| preview.message.is_some()) {
        true => ExitStatus::FaultFound,
        false => ExitStatus::Success,
    })
}

impl<'a> RenderedPod<'a> {
    fn new(preview: &'a Preview) -> Self {
        let warnings = preview.warnings.iter();
        Self {
            pod: &preview.pod,
            decision: preview.outcome,
            reason: preview.reason,
            message: preview.message.as_deref(),
            warnings: warnings
                .map(|(reason, message)| format!("{reason}: {message}"))
                .collect(),
            before: &preview.before,
            after: preview.after.as_ref(),
        }
    }
}

/// One pod: decision and reason as comments, which `patch` passes over, and the diff.
fn render(preview: &Preview) -> String {
    let mut text = String::new();
    for line in preview.annotations() {
        for line in line.lines() {
            text.push_str(&paint(&format!("# {line}"), HEADING));
            text.push('\n');
        }
    }
    if let Some(after) = &preview.after {
        text.push_str(&unified_diff(&preview.pod, &preview.before, after));
    }
    text
}

fn unified_diff(pod: &str, before: &Value, after: &Value) -> String {
    let yaml = |value: &Value| serde_saphyr::to_string(value).expect("plain values are YAML");
    let (before, after) = (yaml(before), yaml(after));
    let diff = TextDiff::from_lines(&before, &after);
    let mut text = String::new();
    let mut line = |content: &str, style| {
        text.push_str(&paint(content, style));
        text.push('\n');
    };
    for (index, hunk) in diff
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .iter_hunks()
        .enumerate()
    {
        if index == 0 {
            line(&format!("--- {pod} as written"), HEADING);
            line(&format!("+++ {pod} as injected"), HEADING);
        }
        line(hunk.header().to_string().trim_end(), UNKNOWN);
        for change in hunk.iter_changes() {
            let (sign, style) = match change.tag() {
                ChangeTag::Delete => ('-', BAD),
                ChangeTag::Insert => ('+', GOOD),
                ChangeTag::Equal => (' ', PLAIN),
            };
            line(&format!("{sign}{}", change.value().trim_end_matches('\n')), style);
        }
    }
    text
}

#[cfg(test)]
mod tests;
