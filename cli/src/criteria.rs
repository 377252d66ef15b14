//! The five success criteria of mcp-auth, each answered by looking at what runs: `doctor` prints them, and `helm test`
//! runs them. [`live`] looks at running pods and calls through them, [`checks`] judges.

mod checks;
mod live;

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

pub use checks::all;
#[cfg(test)]
pub use live::{Call, DirectCall, LiteLlmPod, NotCalled, Sent};
pub use live::{CallOutcome, LiveFacts, UserCall, live_facts};

use crate::args::Format;
use crate::cluster::{ApiGroup, Cluster};
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::{Inventory, Scope};
use crate::litellm_key::KeySource;
use crate::outcome::Outcome;
use crate::output::{self, HEADING, clean, paint};

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Criterion {
    /// 1 to 5.
    pub number: usize,
    pub title: &'static str,
    pub outcome: Outcome,
    /// What was found, one text for each thing looked at.
    pub findings: Vec<String>,
}

/// Prints the criteria alone.
pub async fn run(
    cluster: &Cluster,
    scope: &Scope,
    key: &KeySource,
    skip_calls: bool,
    format: Option<Format>,
) -> Result<ExitStatus, CliError> {
    match cluster.api_group().await? {
        ApiGroup::Served => {}
        ApiGroup::Missing => {
            return Err(CliError::NotInstalled {
                url: cluster.url.clone(),
            });
        }
        ApiGroup::OtherVersions(served) => {
            return Err(CliError::OtherVersion {
                url: cluster.url.clone(),
                served,
            });
        }
    }
    let inventory = Inventory::load(cluster, scope).await?;
    let live = live_facts(cluster, &inventory, key, skip_calls).await?;
    let criteria = all(&inventory, &live, Timestamp::now());
    output::print(&match format {
        Some(format) => output::structured(&criteria, format),
        None => format!(
            "Success criteria of mcp-auth in {}:\n\n{}",
            clean(&scope.describe()),
            render(&criteria)
        ),
    })?;
    Ok(match are_met(&criteria) {
        true => ExitStatus::Success,
        false => ExitStatus::FaultFound,
    })
}

/// Whether nothing says that one is not met.
pub fn are_met(criteria: &[Criterion]) -> bool {
    criteria
        .iter()
        .all(|criterion| criterion.outcome != Outcome::Fault)
}

/// One line each, and below it what was found.
pub fn render(criteria: &[Criterion]) -> String {
    let mut text = String::new();
    for criterion in criteria {
        let (word, style) = criterion.outcome.word();
        let title = format!("{}. {}", criterion.number, criterion.title);
        let _ = writeln!(
            text,
            "{}   {}",
            paint(&format!("{word:<11}"), style),
            paint(&title, HEADING)
        );
        for finding in &criterion.findings {
            let _ = writeln!(text, "                 {}", clean(finding));
        }
    }
    text
}

#[cfg(test)]
mod tests;
