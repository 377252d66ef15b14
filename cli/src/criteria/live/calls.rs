//! What LiteLLM and each MCP server answer: LiteLLM for a user, where its key was given ([`user_call`](super::user_call)), or
//! else LiteLLM's own requests, as the sidecars report them; and the server to a request without a token, from here,
//! which a protected server has to refuse.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, ServiceToken, Transport, conditions};
use mcp_auth_operator::entitled;
use mcp_auth_protocol::reachability::Reachability;
use secrecy::SecretString;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::LiteLlmPod;
use super::user_call::{LiteLlmPorts, PassedOn, UserCall};
use crate::cluster::{Cluster, innermost};
use crate::error::CliError;
use crate::explain::{container, ports};
use crate::inventory::{Inventory, pod_meta};
use crate::litellm_key::{HOW_TO_GIVE, KeySource, LiteLlmKey, LiteLlmKeys};
use crate::mcp_call::{McpCallError, PodAddress, PodPort, initialize};
use crate::status::condition;

/// Most servers that are called.
const MAX_CALLS: usize = 20;
/// Longest time of all calls together. `helm test` takes five minutes, with the start of the pod, and tells nothing if it ends then.
const ALL_CALLS_TIME: Duration = Duration::from_secs(180);
/// Why there is no test user for a server.
const ONLY_USERS_TOKENS: &str =
    "only users have tokens there (serviceToken: None), and a test user cannot have one";
/// Longest wait for a server that is called without a token.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
/// LiteLLM's MCP endpoint. Some versions redirect it without the slash.
const MCP_PATH: &str = "/mcp/";
const SERVERS_PATH: &str = "/v1/mcp/server";
/// Path in front of all of LiteLLM's.
const ROOT_PATH_VARIABLE: &str = "SERVER_ROOT_PATH";
const EVENT_STREAM: &str = "text/event-stream";

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub namespace: String,
    pub resource: String,
    pub outcome: CallOutcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    /// LiteLLM was called as a user calls it.
    Called { call: UserCall, direct: DirectCall },
    /// LiteLLM's own requests were answered, as the sidecars report; no call was made as a user, and why.
    Reported {
        message: String,
        direct: DirectCall,
        not_called: NotCalled,
    },
    /// The call through this pod failed.
    Failed { pod: String, problem: String },
    /// The operator says so, as other checks tell too.
    Failing(String),
    /// What the command line names as LiteLLM's key is none.
    KeyUnusable(String),
    /// LiteLLM does not let the key use the server.
    ServerUnknownOrNotAllowed(String),
    /// Nothing was called, and why.
    NotMade(String),
}

/// Why no call was made as a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotCalled {
    /// The resource passes on nothing of users, so that LiteLLM's own requests show it all.
    NothingOfUsers,
    /// No key of LiteLLM was given.
    NoKey,
    /// It could not be made.
    Because(String),
}

impl NotCalled {
    /// As a finding says it, with the way out.
    pub fn why(&self) -> &str {
        match self {
            Self::NothingOfUsers | Self::NoKey => HOW_TO_GIVE,
            Self::Because(why) => why,
        }
    }
}

/// What the server says to a request without a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DirectCall {
    Refused(u16),
    /// The server is open.
    Answered(u16),
    /// It cannot be reached from here.
    NotReached(String),
}

struct Calls<'a> {
    cluster: &'a Cluster,
    inventory: &'a Inventory,
    pods: &'a [(LiteLlmPod, Pod)],
    keys: LiteLlmKeys<'a>,
}

pub async fn calls(
    cluster: &Cluster,
    inventory: &Inventory,
    pods: &[(LiteLlmPod, Pod)],
    key: &KeySource,
    skip: bool,
) -> Result<Vec<Call>, CliError> {
    let mut calling = Calls {
        cluster,
        inventory,
        pods,
        keys: LiteLlmKeys::new(cluster, key),
    };
    let mut calls = Vec::new();
    let deadline = Instant::now() + ALL_CALLS_TIME;
    for (index, resource) in inventory.resources.iter().enumerate() {
        let outcome = match (skip, index < MAX_CALLS) {
            (true, _) => CallOutcome::NotMade("--skip-calls".to_owned()),
            (false, false) => CallOutcome::NotMade(format!("only the first {MAX_CALLS} servers are called")),
            (false, true) => by(deadline, calling.call(resource)).await?,
        };
        calls.push(Call {
            namespace: resource.namespace().unwrap_or_default(),
            resource: resource.name_any(),
            outcome,
        });
    }
    Ok(calls)
}

/// What came of a call that has to end by then.
async fn by(
    deadline: Instant,
    call: impl Future<Output = Result<CallOutcome, CliError>>,
) -> Result<CallOutcome, CliError> {
    timeout_at(deadline, call).await.unwrap_or_else(|_| {
        let limit = ALL_CALLS_TIME.as_secs();
        Ok(CallOutcome::NotMade(format!(
            "the calls of all servers took the {limit} s that they have together; with --namespace there are fewer"
        )))
    })
}

impl Calls<'_> {
    async fn call(&mut self, resource: &Arc<McpServerAuth>) -> Result<CallOutcome, CliError> {
        let Ok(url) = Url::parse(&resource.spec.server.url) else {
            return Ok(CallOutcome::NotMade("spec.server.url cannot be read".to_owned()));
        };
        let pods = self.pods.iter().map(|(_, pod)| pod);
        let Some(pod) = pods.into_iter().find(|pod| self.is_served_by(resource, pod)) else {
            let why = "no pod that it selects has a sidecar that is ready";
            return Ok(CallOutcome::NotMade(why.to_owned()));
        };
        let namespace = resource.namespace().unwrap_or_default();
        let key = match caller(resource, self.keys.of_namespace(&namespace).await?) {
            Caller::User(key) => key,
            Caller::Nobody(why) => return Ok(reported(resource, &url, why).await),
            Caller::KeyUnusable(problem) => return Ok(CallOutcome::KeyUnusable(problem)),
        };
        let Some(ports) = litellm_ports(self.cluster, pod) else {
            let why = "users' requests do not come through the sidecar (mcpauth.dev/inbound: disabled)";
            return Ok(reported(resource, &url, NotCalled::Because(why.to_owned())).await);
        };
        let name = pod.name_any();
        let passed_on = PassedOn::new(&resource.spec);
        let server = &resource.spec.server;
        Ok(
            match UserCall::make(&ports, name.clone(), &server.name, passed_on, &key).await {
                Ok(call) => CallOutcome::Called {
                    call,
                    direct: direct(&url, server.transport).await,
                },
                Err(McpCallError::Cluster(error @ CliError::Forbidden { .. })) => {
                    reported(resource, &url, NotCalled::Because(error.to_string())).await
                }
                Err(McpCallError::Cluster(error)) if !matches!(error, CliError::Api { .. }) => {
                    return Err(error);
                }
                Err(error @ McpCallError::UnknownOrNotAllowed { .. }) => {
                    CallOutcome::ServerUnknownOrNotAllowed(error.to_string())
                }
                Err(error) => CallOutcome::Failed {
                    pod: name,
                    problem: error.to_string(),
                },
            },
        )
    }

    /// Whether this resource selects the pod, and its sidecar is ready.
    fn is_served_by(&self, resource: &McpServerAuth, pod: &Pod) -> bool {
        let meta = pod_meta(pod);
        let is_selected = entitled(
            &self.inventory.in_namespace(&pod.namespace().unwrap_or_default()),
            meta.labels(),
        )
        .iter()
        .any(|entitled| entitled.metadata.uid == resource.metadata.uid);
        is_selected && container(pod).is_some_and(|container| container.ready)
    }
}

/// None where users' requests do not pass through the sidecar.
fn litellm_ports<'a>(cluster: &'a Cluster, pod: &Pod) -> Option<LiteLlmPorts<'a>> {
    let known = ports(pod)?;
    let port = |address: Option<String>| {
        Some(PodPort::new(
            cluster,
            PodAddress {
                namespace: pod.namespace()?,
                pod: pod.name_any(),
                port: address?.rsplit_once(':')?.1.parse().ok()?,
            },
        ))
    };
    Some(LiteLlmPorts {
        inbound: port(known.inbound)?,
        health: port(known.health)?,
        pod_uid: pod.uid()?,
        path: format!("{}{MCP_PATH}", root_path(pod)),
        servers_path: format!("{}{SERVERS_PATH}", root_path(pod)),
    })
}

/// As far as the pod's containers state it.
fn root_path(pod: &Pod) -> &str {
    let containers = pod.spec.as_ref().map(|spec| &spec.containers[..]);
    let variables = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container.env.iter().flatten());
    let mut stated = variables.filter(|variable| variable.name == ROOT_PATH_VARIABLE);
    let value = stated.next().and_then(|variable| variable.value.as_deref());
    value.unwrap_or_default().trim_end_matches('/')
}

/// What the operator says that sidecars have learned from LiteLLM's requests, which had the token.
#[derive(Debug, Eq, PartialEq)]
enum SidecarReport {
    Answered(String),
    Failing(String),
    Unknown(String),
}

fn sidecar_report(resource: &McpServerAuth) -> SidecarReport {
    let Some(reachable) = condition(resource, conditions::SERVER_REACHABLE) else {
        return SidecarReport::Unknown("the operator says nothing of whether sidecars reach it".to_owned());
    };
    if reachable.status == "False" {
        return SidecarReport::Failing(reachable.message.clone());
    }
    if reachable.reason != Reachability::Answered.reason() {
        return SidecarReport::Unknown(reachable.message.clone());
    }
    // A server that refuses the token answers too.
    match condition(resource, conditions::READY).filter(|ready| ready.status != "True") {
        Some(ready) => SidecarReport::Failing(ready.message.clone()),
        None => SidecarReport::Answered(reachable.message.clone()),
    }
}

/// Whom LiteLLM is called as.
#[derive(Debug)]
enum Caller {
    /// The test user, with this key of LiteLLM.
    User(SecretString),
    /// And why.
    Nobody(NotCalled),
    KeyUnusable(String),
}

fn caller(resource: &McpServerAuth, key: LiteLlmKey) -> Caller {
    match key {
        _ if has_only_users_tokens(resource) => {
            Caller::Nobody(NotCalled::Because(ONLY_USERS_TOKENS.to_owned()))
        }
        LiteLlmKey::Given(key) => Caller::User(key),
        LiteLlmKey::NotGiven => Caller::Nobody(NotCalled::NoKey),
        LiteLlmKey::Unknown(why) => Caller::Nobody(NotCalled::Because(why)),
        LiteLlmKey::Unusable(problem) => Caller::KeyUnusable(problem),
    }
}

/// Whether a request without a user's own cookie or header has no token, and goes to no server.
fn has_only_users_tokens(resource: &McpServerAuth) -> bool {
    let oauth2 = resource.spec.oauth2.as_ref();
    oauth2.is_some_and(|oauth2| oauth2.service_token == ServiceToken::None)
}

/// `why`: LiteLLM is not called as a user.
async fn reported(resource: &McpServerAuth, url: &Url, why: NotCalled) -> CallOutcome {
    match sidecar_report(resource) {
        SidecarReport::Answered(message) => CallOutcome::Reported {
            message,
            direct: direct(url, resource.spec.server.transport).await,
            not_called: match PassedOn::new(&resource.spec).is_empty() && !has_only_users_tokens(resource) {
                true => NotCalled::NothingOfUsers,
                false => why,
            },
        },
        SidecarReport::Failing(problem) => CallOutcome::Failing(problem),
        SidecarReport::Unknown(unknown) => CallOutcome::NotMade(format!("{unknown}; {}", why.why())),
    }
}

/// The first request of a session, without a token. Certificates of a private authority are not known here: such a
/// server counts as not reached.
async fn direct(url: &Url, transport: Transport) -> DirectCall {
    let client = reqwest::Client::builder()
        .timeout(DIRECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let answer = async {
        let client = client?;
        let request = match transport {
            Transport::Sse => client.get(url.clone()).header("accept", EVENT_STREAM),
            Transport::StreamableHttp => {
                let message =
                    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize()});
                client
                    .post(url.clone())
                    .header("content-type", "application/json")
                    .header("accept", format!("application/json, {EVENT_STREAM}"))
                    .body(message.to_string())
            }
        };
        request.send().await
    };
    match answer.await {
        Ok(answer) if answer.status().is_success() => DirectCall::Answered(answer.status().as_u16()),
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 403) => {
            DirectCall::Refused(answer.status().as_u16())
        }
        Ok(answer) => DirectCall::NotReached(format!("it answers {}", answer.status().as_u16())),
        Err(error) => DirectCall::NotReached(innermost(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(ready: &str, reachable: Option<(&str, &str)>) -> McpServerAuth {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({"type": type_, "status": status, "reason": reason, "message": format!("{type_} is {status}"),
                "lastTransitionTime": "2026-11-29T00:00:00Z"})
        };
        let mut found = vec![condition("Ready", ready, "Ready")];
        found.extend(reachable.map(|(status, reason)| condition("ServerReachable", status, reason)));
        let value = json!({
            "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "llm"},
            "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "tools", "key": "token"}}},
            "status": {"conditions": found},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn litellm_s_own_requests_show_whether_the_server_answers() {
        let said = |ready, reachable| sidecar_report(&resource(ready, reachable));
        assert_eq!(
            said("True", Some(("True", "Answered"))),
            SidecarReport::Answered("ServerReachable is True".to_owned())
        );
        assert_eq!(
            said("True", Some(("False", "ConnectionFailed"))),
            SidecarReport::Failing("ServerReachable is False".to_owned())
        );
        assert_eq!(
            said("False", Some(("True", "Answered"))),
            SidecarReport::Failing("Ready is False".to_owned())
        );
        for unknown in [
            None,
            Some(("True", "Connected")),
            Some(("Unknown", "NotContacted")),
        ] {
            assert!(
                matches!(said("True", unknown), SidecarReport::Unknown(_)),
                "{unknown:?}"
            );
        }
    }

    #[tokio::test]
    async fn where_only_users_have_tokens_nothing_of_users_is_said_to_arrive() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let users_only = |reachable| {
            let mut value = serde_json::to_value(resource("True", Some(reachable))).unwrap();
            value["spec"]["bearerToken"].take();
            value["spec"]["oauth2"] = json!({"tokenUrl": "https://a.example.com/t", "clientId": "c",
                "clientAuthentication": {"method": "None"}, "serviceToken": "None",
                "tokenExchange": {"subjectCookie": "user_token"}});
            serde_json::from_value::<McpServerAuth>(value).unwrap()
        };
        let url = Url::parse("http://127.0.0.1:1/mcp").unwrap();
        let answered = users_only(("True", "Answered"));
        let only_users = NotCalled::Because(ONLY_USERS_TOKENS.to_owned());
        let key = || LiteLlmKey::Given("sk-key".into());
        assert!(matches!(caller(&answered, key()), Caller::Nobody(why) if why == only_users));
        assert!(matches!(caller(&resource("True", None), key()), Caller::User(_)));
        let outcome = reported(&answered, &url, only_users.clone()).await;
        assert!(
            matches!(&outcome, CallOutcome::Reported { not_called, .. } if *not_called == only_users),
            "{outcome:?}"
        );
        let outcome = reported(&users_only(("Unknown", "NotContacted")), &url, only_users).await;
        assert!(
            matches!(&outcome, CallOutcome::NotMade(why) if why.ends_with(ONLY_USERS_TOKENS)),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn calls_end_with_the_time_that_all_have_together_and_what_is_there_counts() {
        let now = Instant::now();
        let made = || Ok(CallOutcome::Failing("it is away".to_owned()));
        assert_eq!(
            by(now, std::future::ready(made())).await.unwrap(),
            made().unwrap()
        );
        let outcome = by(now, std::future::pending()).await.unwrap();
        assert!(
            matches!(&outcome, CallOutcome::NotMade(why) if why.contains("180 s")),
            "{outcome:?}"
        );
    }

    #[test]
    fn litellm_s_root_path_is_in_front_of_its_mcp_endpoint() {
        let pod = |variables: serde_json::Value| -> Pod {
            let containers = json!([{"name": "other"}, {"name": "litellm", "env": variables}]);
            serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
        };
        assert_eq!(
            root_path(&pod(json!([{"name": "SERVER_ROOT_PATH", "value": "/llm/"}]))),
            "/llm"
        );
        assert_eq!(
            root_path(&pod(json!([{"name": "SERVER_ROOT_PATH", "valueFrom": {}}]))),
            ""
        );
        assert_eq!(root_path(&pod(json!([]))), "");
    }
}
