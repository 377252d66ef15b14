//! The log of one pod's sidecar, which the API server gets from the kubelet: its audit lines, and how far it has
//! been read.

use std::collections::VecDeque;
use std::time::Duration;

use futures::io::AsyncBufRead;
use futures::{AsyncBufReadExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};
use mcp_auth_operator::PodMeta;
use mcp_auth_operator::inject::SIDECAR;
use thiserror::Error;

use super::line::{AuditLine, Filter};
use crate::cluster::Cluster;
use crate::error::CliError;

/// Longest wait for the next line of a log that is not followed.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod's log, as far as it has been read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodLog {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// The kubelet's time of the last line.
    pub last: Option<Timestamp>,
}

#[derive(Debug, Error)]
pub enum PodLogError {
    #[error(transparent)]
    Cluster(CliError),
    #[error("the log of the pod {namespace}/{pod} cannot be read: {cause}")]
    Unreadable {
        namespace: String,
        pod: String,
        cause: String,
    },
}

impl PodLog {
    pub fn new(pod: &PodMeta) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            last: None,
        }
    }

    /// The audit line in a line of the log, unless it has been read before. Each begins with the kubelet's time.
    pub fn take(&mut self, line: &str) -> Option<AuditLine> {
        let (time, text) = line.split_once(' ')?;
        let time: Timestamp = time.parse().ok()?;
        // The kubelet is asked from a whole second on.
        if self.last.is_some_and(|last| time <= last) {
            return None;
        }
        self.last = Some(time);
        AuditLine::read(text)
    }

    /// Opens the log, from what has been read on.
    pub async fn open(
        &self,
        cluster: &Cluster,
        since: Option<Duration>,
        follow: bool,
    ) -> Result<impl AsyncBufRead + Unpin + use<>, PodLogError> {
        let params = LogParams {
            container: Some(SIDECAR.to_owned()),
            timestamps: true,
            follow,
            since_time: self.last,
            since_seconds: match self.last {
                Some(_) => None,
                None => since.and_then(|since| i64::try_from(since.as_secs()).ok()),
            },
            ..LogParams::default()
        };
        let api = Api::<Pod>::namespaced(cluster.client.clone(), &self.namespace);
        let action = format!("get pods/log in the namespace {}", self.namespace);
        let stream = cluster.answer(&action, api.log_stream(&self.pod, &params)).await;
        match stream {
            Ok(stream) => Ok(Box::pin(stream)),
            // A container that has not started, a kubelet that is away, a pod that has just gone.
            Err(CliError::Api { cause, .. }) => Err(self.unreadable(cause)),
            Err(error) => Err(PodLogError::Cluster(error)),
        }
    }

    fn unreadable(&self, cause: impl ToString) -> PodLogError {
        PodLogError::Unreadable {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            cause: cause.to_string(),
        }
    }
}

/// What is wanted of the log of each pod.
pub struct PodLogRequest<'a> {
    pub cluster: &'a Cluster,
    pub filter: &'a Filter,
    pub since: Option<Duration>,
    /// The newest lines that are kept.
    pub tail: usize,
}

impl PodLogRequest<'_> {
    /// Reads what there is.
    pub async fn read(&self, mut log: PodLog) -> Result<(PodLog, VecDeque<AuditLine>), PodLogError> {
        let mut lines = log.open(self.cluster, self.since, false).await?.lines();
        let mut kept = VecDeque::new();
        loop {
            let next = tokio::time::timeout(LINE_TIMEOUT, lines.next()).await;
            let line = match next {
                Ok(Some(Ok(line))) => line,
                Ok(None) => return Ok((log, kept)),
                Ok(Some(Err(error))) => return Err(log.unreadable(error)),
                Err(_) => {
                    let seconds = LINE_TIMEOUT.as_secs();
                    return Err(log.unreadable(format!("nothing has come for {seconds} s")));
                }
            };
            let Some(line) = log.take(&line).filter(|line| self.filter.wants(&line.fields)) else {
                continue;
            };
            kept.push_back(line);
            if kept.len() > self.tail {
                kept.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_once_though_the_kubelet_sends_the_last_second_again() {
        let mut log = PodLog {
            namespace: "llm".into(),
            pod: "litellm-0".into(),
            uid: "1".into(),
            last: None,
        };
        let line =
            |nanos: &str| format!(r#"2026-11-29T17:50:00.{nanos}Z {{"schema":"mcpauth.dev/audit/v1"}}"#);
        assert!(log.take(&line("1")).is_some());
        assert!(log.take(&line("2")).is_some());
        assert!(log.take(&line("1")).is_none());
        assert!(log.take(&line("2")).is_none());
        assert!(log.take(&line("200000001")).is_some());
        assert!(log.take("no time").is_none());
    }
}
