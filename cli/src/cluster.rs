//! The cluster: connects by the kubeconfig within a bound, and turns what can go wrong into one message.

use std::time::Duration;

use hyper::Uri;
use jiff::Timestamp;
use kube::Client;
use kube::core::Status;
use mcp_auth_crds::McpServerAuth;

use crate::error::CliError;
use crate::kubeconfig;
use crate::standard_error::{clean, print_error};

pub use crate::kubeconfig::ClusterOptions;

/// A cluster that does not answer is reported within this time, whatever command asks it.
pub const UNANSWERED_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a connection, TLS included, and for the first answer, the connection included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const _: () = assert!(
    CONNECT_TIMEOUT.as_secs() < FIRST_ANSWER_TIMEOUT.as_secs()
        && FIRST_ANSWER_TIMEOUT.as_secs() < UNANSWERED_LIMIT.as_secs()
);
/// Longest wait for each answer of an API server that has answered before: lists of large clusters take long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// After so long a wait people are told what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(4);

/// A cluster that has answered and that serves `McpServerAuth` resources, unless `serves` says otherwise.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub url: String,
    /// The proxy that it is reached through, as `http://proxy:3128`.
    proxy: Option<String>,
    /// Of the kubeconfig's context.
    pub default_namespace: String,
}

/// What the cluster serves of the API group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ApiGroup {
    /// The version that this program knows.
    Served,
    /// Other versions only, listed.
    OtherVersions(String),
    Missing,
}

impl Cluster {
    /// Connects, and waits for a first answer.
    pub async fn connect(options: &ClusterOptions) -> Result<Self, CliError> {
        let mut config = kubeconfig::load(options)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // A repeated request would only hide what the first one was answered with.
        config.default_retry = false;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let proxy = config.proxy_url.as_ref().and_then(without_credentials);
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| CliError::Client(error.to_string()))?;
        let cluster = Self {
            client,
            url,
            proxy,
            default_namespace,
        };
        cluster
            .within(
                FIRST_ANSWER_TIMEOUT,
                "ask for its version",
                cluster.client.apiserver_version(),
            )
            .await?;
        Ok(cluster)
    }

    /// The same, or an error if the cluster has no `McpServerAuth` resources of the version that is known here.
    pub async fn with_mcp_auth(options: &ClusterOptions) -> Result<Self, CliError> {
        let cluster = Self::connect(options).await?;
        match cluster.api_group().await? {
            ApiGroup::Served => Ok(cluster),
            ApiGroup::Missing => Err(CliError::NotInstalled { url: cluster.url }),
            ApiGroup::OtherVersions(served) => Err(CliError::OtherVersion {
                url: cluster.url,
                served,
            }),
        }
    }

    pub async fn api_group(&self) -> Result<ApiGroup, CliError> {
        use kube::Resource;
        let groups = self
            .answer("list its API groups", self.client.list_api_groups())
            .await?;
        let group = McpServerAuth::group(&());
        let Some(group) = groups.groups.into_iter().find(|found| found.name == group) else {
            return Ok(ApiGroup::Missing);
        };
        let versions: Vec<String> = group.versions.into_iter().map(|found| found.version).collect();
        Ok(
            match versions
                .iter()
                .any(|version| *version == McpServerAuth::version(&()))
            {
                true => ApiGroup::Served,
                false => ApiGroup::OtherVersions(versions.join(", ")),
            },
        )
    }

    /// The answer of the API server within a bound. `action` completes "you may not".
    pub async fn answer<T>(
        &self,
        action: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CliError> {
        let mut call = std::pin::pin!(call);
        let soon = tokio::time::timeout(NOTICE_AFTER, &mut call).await;
        if let Ok(answer) = soon {
            return answer.map_err(|error| self.error(action, error));
        }
        print_error(&clean(&format!(
            "note: the cluster at {} has not answered for {} s, asked to {action}; waiting for {} s at most",
            self.url,
            NOTICE_AFTER.as_secs(),
            ANSWER_TIMEOUT.as_secs()
        )));
        match tokio::time::timeout(ANSWER_TIMEOUT - NOTICE_AFTER, call).await {
            Ok(answer) => answer.map_err(|error| self.error(action, error)),
            Err(_) => Err(self.silent(ANSWER_TIMEOUT)),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        action: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CliError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.error(action, error)),
            Err(_) => Err(self.silent(limit)),
        }
    }

    fn silent(&self, limit: Duration) -> CliError {
        CliError::Silent {
            url: self.way(),
            limit,
            remedy: "`kubectl version` asks the same cluster",
        }
    }

    /// Where it is, with the proxy, which may be what does not answer.
    fn way(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} through the proxy {proxy}", self.url),
            None => self.url.clone(),
        }
    }

    fn error(&self, action: &str, error: kube::Error) -> CliError {
        match error {
            kube::Error::Api(status) => self.api_error(action, &status),
            // TCP or TLS, of which an API server that does not answer finishes one at most.
            error if has_timed_out(&error) => self.silent(CONNECT_TIMEOUT),
            error => CliError::Unreachable {
                url: self.way(),
                cause: innermost(&error),
            },
        }
    }

    fn api_error(&self, action: &str, status: &Status) -> CliError {
        match status.code {
            401 => CliError::NotAuthenticated {
                url: self.url.clone(),
            },
            403 => CliError::Forbidden {
                action: action.to_owned(),
                cause: status.message.clone(),
                remedy: "ask for the right, or name a namespace that you may read with --namespace",
            },
            code => CliError::Api {
                action: action.to_owned(),
                cause: match status.message.as_str() {
                    "" => format!(
                        "it answers {code} without a reason. Is {} an API server?",
                        self.url
                    ),
                    message => message.to_owned(),
                },
            },
        }
    }
}

fn without_credentials(proxy: &Uri) -> Option<String> {
    let authority = proxy.authority()?.as_str();
    let (_, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    Some(format!("{}://{server}", proxy.scheme_str()?))
}

fn has_timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut)
    })
}

/// The last cause of an error: the outer ones only say that there is one. The number that the system has for it says
/// nothing to people.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let text = causes
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string);
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Seconds from `now` until `at`, negative if it is over.
pub fn seconds_until(at: Timestamp, now: Timestamp) -> i64 {
    at.as_second() - now.as_second()
}
