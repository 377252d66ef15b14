//! `doctor`: gathers facts about an installation, judges them by a list of pure checks, and names the first
//! fault and the way out.

pub mod checks;
pub mod facts;
pub mod finding;
mod gather;
mod text;

use crate::args::DoctorArgs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::criteria;
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::Scope;
use crate::litellm_key::KeySource;
use crate::output;
use finding::Report;

pub use text::render;

pub async fn run(options: &ClusterOptions, args: &DoctorArgs) -> Result<ExitStatus, CliError> {
    let key = KeySource::new(
        args.litellm_key_file.as_deref(),
        args.litellm_key_secret.as_ref(),
        args.scope.all_namespaces,
    )?;
    let cluster = Cluster::connect(options).await?;
    let scope = Scope::new(&args.scope, &cluster);
    if args.criteria {
        return criteria::run(&cluster, &scope, &key, args.skip_calls, args.output).await;
    }
    let facts = gather::gather(&cluster, &scope, args, &key).await?;
    let criteria = criteria::all(&facts.inventory, &facts.live, facts.now);
    let report = Report::new(checks::all(&facts), criteria);
    output::print(&match args.output {
        Some(format) => output::structured(&report, format),
        None => render(&report),
    })?;
    Ok(match report.healthy {
        true => ExitStatus::Success,
        false => ExitStatus::FaultFound,
    })
}
