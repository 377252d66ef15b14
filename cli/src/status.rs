//! `status`: resources, tokens, sidecars, and pods without one, at a glance.

mod report;
mod text;

use std::io::IsTerminal;
use std::time::Duration;

use jiff::Timestamp;

use report::StatusReport;
pub use report::{PodState, condition};

use crate::args::{Format, StatusArgs};
use crate::cluster::{Cluster, ClusterOptions};
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::{Inventory, Scope};
use crate::operator_version::operator_version;
use crate::output;

/// How often `--watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears the screen and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub async fn run(options: &ClusterOptions, args: &StatusArgs) -> Result<ExitStatus, CliError> {
    let cluster = Cluster::with_mcp_auth(options).await?;
    let scope = Scope::new(&args.scope, &cluster);
    let report = look(&cluster, &scope).await?;
    if !args.watch {
        output::print(&render(&report, &scope, args.output))?;
        return Ok(ExitStatus::Success);
    }
    watch(&cluster, &scope, args.output, report).await
}

async fn look(cluster: &Cluster, scope: &Scope) -> Result<StatusReport, CliError> {
    let inventory = Inventory::load(cluster, scope).await?;
    let installed = operator_version(cluster).await?;
    Ok(StatusReport::new(&inventory, installed, Timestamp::now()))
}

fn render(report: &StatusReport, scope: &Scope, format: Option<Format>) -> String {
    match format {
        Some(format) => output::structured(report, format),
        None => text::render(report, &scope.describe()),
    }
}

/// Prints each report that differs from the one before. A cluster that fails for a while ends nothing. The
/// interrupt that ends it is the user's.
async fn watch(
    cluster: &Cluster,
    scope: &Scope,
    format: Option<Format>,
    mut report: StatusReport,
) -> Result<ExitStatus, CliError> {
    let redraws = format.is_none() && std::io::stdout().is_terminal();
    let mut printed: Option<StatusReport> = None;
    loop {
        let changed = printed
            .as_ref()
            .is_none_or(|printed| !report.says_the_same(printed));
        if redraws || changed {
            let separator = match (redraws, &printed, format) {
                (true, _, _) => CLEAR,
                (false, Some(_), Some(Format::Yaml)) => "---\n",
                (false, Some(_), None) => "\n",
                _ => "",
            };
            output::print(&format!("{separator}{}", render(&report, scope, format)))?;
            printed = Some(report.clone());
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(ExitStatus::Success),
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
        match look(cluster, scope).await {
            Ok(next) => report = next,
            Err(error @ (CliError::Silent { .. } | CliError::Unreachable { .. } | CliError::Api { .. })) => {
                output::print_error(&format!("{error}; looking again"));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
