//! Follows the logs of the pods that there are, and of those that come later. A stream that ends is opened again where
//! it ended, for as long as its pod is there.

use std::collections::HashMap;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use kube::ResourceExt;
use mcp_auth_operator::is_injected;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::line::{AuditLine, Filter};
use super::pod_log::{PodLog, PodLogError};
use super::text::Printer;
use crate::cluster::Cluster;
use crate::error::CliError;
use crate::inventory::{Inventory, Scope};
use crate::output;

/// Between two looks which pods there are.
const RESCAN_INTERVAL: Duration = Duration::from_secs(3);
/// Most pods that are followed at once: each is a connection to the API server.
const MAX_PODS: usize = 200;
/// Lines that wait to be printed.
const QUEUE: usize = 1024;

pub struct Following<'a> {
    pub cluster: &'a Cluster,
    pub scope: &'a Scope,
    /// The only pod to follow.
    pub pod: Option<&'a str>,
    pub filter: &'a Filter,
    /// How far logs have been read.
    pub read: Vec<PodLog>,
}

impl Following<'_> {
    /// Until it is interrupted.
    pub async fn run(self, printer: &mut Printer) -> Result<(), CliError> {
        let mut read: HashMap<String, PodLog> = self
            .read
            .iter()
            .map(|log| (log.uid.clone(), log.clone()))
            .collect();
        // Uids of pods whose logs are open.
        let mut open: Vec<String> = Vec::new();
        let mut streams: JoinSet<PodLog> = JoinSet::new();
        let (sender, mut lines) = mpsc::channel(QUEUE);
        let mut ticks = tokio::time::interval(RESCAN_INTERVAL);
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                Some(line) = lines.recv() => {
                    let line: AuditLine = line;
                    if self.filter.wants(&line.fields) {
                        printer.print(&[line])?;
                    }
                }
                Some(Ok(ended)) = streams.join_next() => {
                    open.retain(|uid| *uid != ended.uid);
                    read.insert(ended.uid.clone(), ended);
                }
                _ = ticks.tick() => {
                    for log in self.pods().await? {
                        if open.contains(&log.uid) || open.len() >= MAX_PODS {
                            continue;
                        }
                        let log = read.get(&log.uid).cloned().unwrap_or(log);
                        open.push(log.uid.clone());
                        streams.spawn(stream(self.cluster.clone(), log, sender.clone()));
                    }
                }
            }
        }
    }

    /// The pods to follow. A cluster that fails for a while ends nothing.
    async fn pods(&self) -> Result<Vec<PodLog>, CliError> {
        let inventory = match Inventory::load(self.cluster, self.scope).await {
            Ok(inventory) => inventory,
            Err(error @ (CliError::Silent { .. } | CliError::Unreachable { .. } | CliError::Api { .. })) => {
                output::print_error(&format!("{error}; looking again"));
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let pods = inventory.pods.iter().flatten();
        let wanted =
            pods.filter(|pod| is_injected(pod) && self.pod.is_none_or(|name| pod.name_any() == name));
        Ok(wanted.map(PodLog::new).collect())
    }
}

/// Sends the lines of one pod until its log ends, and returns how far it has been read.
async fn stream(cluster: Cluster, mut log: PodLog, lines: mpsc::Sender<AuditLine>) -> PodLog {
    let opened = match log.open(&cluster, None, true).await {
        Ok(opened) => opened,
        // A pod that is starting has no log yet; the next look asks again.
        Err(PodLogError::Unreadable { .. } | PodLogError::Cluster(_)) => return log,
    };
    let mut received = opened.lines();
    while let Some(Ok(line)) = received.next().await {
        if let Some(line) = log.take(&line)
            && lines.send(line).await.is_err()
        {
            break;
        }
    }
    log
}
