//! `logs --audit`: the audit lines of all pods with a sidecar, filtered and merged by time. [`line`] reads them,
//! [`pod_log`] asks the kubelets for them by way of the API server, [`follow`] goes on with those that come.

mod follow;
mod line;
mod pod_log;
mod text;

use futures::StreamExt;
use kube::ResourceExt;
use mcp_auth_crds::AuditLevel;
use mcp_auth_operator::{PodMeta, is_injected};

use crate::args::LogsArgs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::{Inventory, Scope};
use crate::output;
use line::{AuditLine, Filter};
use pod_log::{PodLog, PodLogError, PodLogRequest};
use text::Printer;

/// Pods whose logs are read at once.
const MAX_AT_ONCE: usize = 8;

pub async fn run(options: &ClusterOptions, args: &LogsArgs) -> Result<ExitStatus, CliError> {
    let cluster = Cluster::with_mcp_auth(options).await?;
    let scope = Scope::new(&args.scope, &cluster);
    let inventory = Inventory::load(&cluster, &scope).await?;
    let pods = pods_with_sidecar(&inventory, &scope, args)?;
    let filter = Filter {
        server: args.server.clone(),
        user: args.user.clone(),
    };
    let mut printer = Printer::new(args.output);
    let history = history(&cluster, &pods, &filter, args).await?;
    let is_whole = history.failures == 0;
    printer.print(&history.lines)?;
    if args.follow {
        let following = follow::Following {
            cluster: &cluster,
            scope: &scope,
            pod: args.pod.as_deref(),
            filter: &filter,
            read: history.read,
        };
        following.run(&mut printer).await?;
        return Ok(ExitStatus::Success);
    }
    if history.lines.is_empty() {
        output::print_error(&nothing_found(&inventory, pods.len()));
    }
    Ok(match is_whole {
        true => ExitStatus::Success,
        false => ExitStatus::FaultFound,
    })
}

/// What was there when the command began.
struct History {
    lines: Vec<AuditLine>,
    /// How far each pod's log has been read.
    read: Vec<PodLog>,
    /// Pods whose logs could not be read.
    failures: usize,
}

async fn history(
    cluster: &Cluster,
    pods: &[PodMeta],
    filter: &Filter,
    args: &LogsArgs,
) -> Result<History, CliError> {
    let request = PodLogRequest {
        cluster,
        filter,
        since: args.since,
        tail: args.tail,
    };
    let logs = pods.iter().map(PodLog::new).map(|log| request.read(log));
    let mut logs = futures::stream::iter(logs).buffer_unordered(MAX_AT_ONCE);
    let mut history = History {
        lines: Vec::new(),
        read: Vec::new(),
        failures: 0,
    };
    while let Some(outcome) = logs.next().await {
        match outcome {
            Ok((log, lines)) => {
                history.lines.extend(lines);
                history.read.push(log);
            }
            // None of the others would be answered differently.
            Err(PodLogError::Cluster(error)) => return Err(error),
            Err(error @ PodLogError::Unreadable { .. }) => {
                history.failures += 1;
                output::print_error(&format!("warning: {}", output::clean(&error.to_string())));
            }
        }
    }
    history.lines.sort_by(AuditLine::by_time);
    let superfluous = history.lines.len().saturating_sub(args.tail);
    history.lines.drain(..superfluous);
    Ok(history)
}

/// The pods to read, which are those with a sidecar.
fn pods_with_sidecar(
    inventory: &Inventory,
    scope: &Scope,
    args: &LogsArgs,
) -> Result<Vec<PodMeta>, CliError> {
    let Some(pods) = &inventory.pods else {
        return Err(CliError::Forbidden {
            action: format!("list pods in {}", scope.describe()),
            cause: "the API server refuses it".to_owned(),
            remedy: "ask for the rights to list pods and to get pods/log",
        });
    };
    let with_sidecar = pods.iter().filter(is_injected).cloned();
    let Some(name) = &args.pod else {
        return Ok(with_sidecar.collect());
    };
    match pods.iter().find(|pod| pod.name_any() == *name) {
        Some(pod) if is_injected(pod) => Ok(vec![pod.clone()]),
        found => Err(CliError::NotFound {
            kind: match found {
                Some(_) => "sidecar in the pod",
                None => "pod",
            },
            name: name.clone(),
            namespace: match scope {
                Scope::Namespace(namespace) => namespace.clone(),
                Scope::All => String::new(),
            },
            remedy: match found {
                Some(_) => "`kubectl mcp-auth explain` says why",
                None => "kubectl get pods lists those that are there; name their namespace with --namespace",
            },
        }),
    }
}

fn nothing_found(inventory: &Inventory, pods: usize) -> String {
    if pods == 0 {
        return "no pod has the sidecar: `kubectl mcp-auth status` shows why".to_owned();
    }
    let silent: Vec<String> = inventory
        .resources
        .iter()
        .filter(|resource| resource.spec.audit.level == AuditLevel::Off)
        .map(|resource| resource.name_any())
        .collect();
    let mut text = format!("no call matches in the logs of {pods} pods");
    if !silent.is_empty() {
        text += &format!("; spec.audit.level is Off for {}", silent.join(", "));
    }
    text
}
