//! `token`: what is known of the token for a server, as the status of its resource tells of it. The token itself is
//! in the memory of operator and sidecars, and never comes here.

mod report;
mod text;

use jiff::Timestamp;
use kube::ResourceExt;

pub use report::TokenReport;

use crate::args::TokenArgs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::{Inventory, Scope};
use crate::operator_version::operator_version;
use crate::output;

/// How many servers an error names before it only counts them.
const MAX_NAMED: usize = 10;

pub async fn run(options: &ClusterOptions, args: &TokenArgs) -> Result<ExitStatus, CliError> {
    let cluster = Cluster::with_mcp_auth(options).await?;
    let namespace = args.namespace.as_ref().unwrap_or(&cluster.default_namespace);
    let inventory = Inventory::load_resources(&cluster, &Scope::Namespace(namespace.clone())).await?;
    let now = Timestamp::now();
    let mut reports: Vec<TokenReport> = inventory
        .resources
        .iter()
        .filter(|resource| resource.spec.server.name == args.server || resource.name_any() == args.server)
        .map(|resource| TokenReport::new(resource, now))
        .collect();
    reports.sort_by(|a, b| a.resource.cmp(&b.resource));
    if reports.is_empty() {
        return Err(not_found(&inventory, namespace, &args.server));
    }
    if reports.iter().any(|report| report.is_of_older_operator) {
        let installed = operator_version(&cluster).await?;
        for report in &mut reports {
            report.tell_of_older_operator(installed.as_deref());
        }
    }
    output::print(&match args.output {
        Some(format) => output::structured(&reports, format),
        None => text::render(&reports),
    })?;
    Ok(match reports.iter().all(TokenReport::serves) {
        true => ExitStatus::Success,
        false => ExitStatus::FaultFound,
    })
}

fn not_found(inventory: &Inventory, namespace: &str, server: &str) -> CliError {
    let servers: Vec<&str> = inventory
        .resources
        .iter()
        .map(|resource| resource.spec.server.name.as_str())
        .collect();
    let (named, rest) = servers.split_at(servers.len().min(MAX_NAMED));
    CliError::NoSuchServer {
        server: server.to_owned(),
        namespace: namespace.to_owned(),
        there_are: match (named, rest.len()) {
            ([], _) => "it has no McpServerAuth; name another with --namespace".to_owned(),
            (named, 0) => format!("it has {}", named.join(", ")),
            (named, more) => format!("it has {} and {more} more", named.join(", ")),
        },
    }
}

#[cfg(test)]
mod tests;
