//! One `tools/list` of an MCP server's, asked of LiteLLM as a user asks it, whose allow-listed cookies and headers have a value
//! of this call's own; and what the sidecar says of the requests that LiteLLM made of it.

use hyper::body::Bytes;
use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response;
use hyper::{Request, StatusCode};
use mcp_auth_crds::{CookiePassthrough, McpServerAuthSpec};
use mcp_auth_protocol::context_check::{CheckValue, SentRequest, SentRequests};
use mcp_auth_protocol::pod::health;
use secrecy::SecretString;

use crate::mcp_call::{Caller, McpCallError, PodPort, count_tools, servers_of_key};
use crate::outcome::Outcome;

/// A cookie that no resource lists.
const OTHER_COOKIE: &str = "mcpauth_check_other";
/// The header by which users choose among LiteLLM's MCP servers.
const SERVERS_HEADER: HeaderName = HeaderName::from_static("x-mcp-servers");

/// LiteLLM in a pod, and the sidecar beside it.
pub struct LiteLlmPorts<'a> {
    pub inbound: PodPort<'a>,
    pub health: PodPort<'a>,
    pub pod_uid: String,
    /// Path of LiteLLM's MCP endpoint.
    pub path: String,
    /// Where LiteLLM lists the MCP servers that a key may use.
    pub servers_path: String,
}

/// Names of what a server gets of users.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PassedOn {
    /// Sorted.
    pub cookies: Vec<String>,
    /// Sorted, in lower case.
    pub headers: Vec<String>,
}

/// What was found by calling.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserCall {
    pub pod: String,
    /// How many tools LiteLLM lists to this user.
    pub tools: usize,
    /// How many it lists to a request without a user, where it lists none to the test user.
    pub tools_without_user: Option<usize>,
    pub passed_on: PassedOn,
    pub sent: Sent,
}

/// What the sidecar says that it sent to the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sent {
    /// The resource passes on no cookie or header that a test user could have.
    NothingToSend,
    Requests(Vec<SentRequest>),
    /// It cannot say.
    Unknown(String),
}

impl PassedOn {
    /// Of the resource, without the cookie or header that is exchanged for a user's token, which a test user cannot have.
    pub fn new(spec: &McpServerAuthSpec) -> Self {
        let exchange = spec
            .oauth2
            .as_ref()
            .and_then(|oauth2| oauth2.token_exchange.as_ref());
        let cookie = exchange.and_then(|exchange| exchange.subject_cookie.as_deref());
        let header = exchange.and_then(|exchange| exchange.subject_header.as_deref());
        let CookiePassthrough {
            enabled,
            cookie_names,
        } = &spec.cookie_passthrough;
        let mut cookies: Vec<String> = match enabled {
            Some(true) => cookie_names.clone(),
            Some(false) | None => Vec::new(),
        };
        cookies.retain(|name| Some(name.as_str()) != cookie);
        let headers = spec.header_passthrough.header_names.iter();
        let mut headers: Vec<String> = headers.map(|name| name.to_ascii_lowercase()).collect();
        headers.retain(|name| !header.is_some_and(|header| header.eq_ignore_ascii_case(name)));
        for names in [&mut cookies, &mut headers] {
            names.sort_unstable();
            names.dedup();
        }
        Self { cookies, headers }
    }

    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty() && self.headers.is_empty()
    }

    /// "the allowed cookie session_id and the allowed header x-forwarded-user"
    fn describe(&self) -> String {
        let of = |kind: &str, names: &[String]| match names {
            [] => None,
            [name] => Some(format!("the allowed {kind} {name}")),
            names => Some(format!("the allowed {kind}s {}", names.join(", "))),
        };
        let parts = [of("cookie", &self.cookies), of("header", &self.headers)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }

    /// As a user sends them, beside a cookie that is not allowed.
    fn as_user(&self, value: &CheckValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let cookies = self.cookies.iter().map(String::as_str).chain([OTHER_COOKIE]);
        let cookies: Vec<String> = cookies.map(|name| format!("{name}={value}")).collect();
        headers.extend(HeaderValue::from_str(&cookies.join("; ")).map(|field| (COOKIE, field)));
        for name in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            headers.extend(name.ok().zip(HeaderValue::from_str(value.as_str()).ok()));
        }
        headers
    }
}

impl UserCall {
    /// Calls LiteLLM for the tools of this server. `pod` is the pod's name.
    pub async fn make(
        ports: &LiteLlmPorts<'_>,
        pod: String,
        server: &str,
        passed_on: PassedOn,
        key: &SecretString,
    ) -> Result<Self, McpCallError> {
        let value = CheckValue::new(rand::random());
        let (headers, begun) = match passed_on.is_empty() {
            true => (HeaderMap::new(), Sent::NothingToSend),
            false => (passed_on.as_user(&value), ports.sent(&value).await?),
        };
        let tools = ports.tools(server, headers, key).await?;
        let sent = match begun {
            Sent::Requests(_) => ports.sent(&value).await?.of_server(server),
            unknown => unknown,
        };
        if tools == 0 && !sent.has_requests() {
            ports.require_server_of_key(server, key).await?;
        }
        let tools_without_user = match (tools, passed_on.is_empty()) {
            (0, false) if sent.may_be_the_user_s() => Some(ports.tools(server, HeaderMap::new(), key).await?),
            _ => None,
        };
        Ok(Self {
            pod,
            tools,
            tools_without_user,
            passed_on,
            sent,
        })
    }

    /// Whether what the user sent went to the server, as the sidecar says.
    pub fn arrival(&self) -> (Outcome, String) {
        let requests = match &self.sent {
            Sent::NothingToSend => {
                let text =
                    "the resource passes on no cookie or header that a test user could have".to_owned();
                return (Outcome::Passed, text);
            }
            Sent::Unknown(why) => return (Outcome::NotChecked, why.clone()),
            Sent::Requests(requests) => requests,
        };
        let list = requests.iter().rfind(|request| is_list(request));
        let Some(request) = list.or(requests.last()) else {
            let text = format!(
                "of LiteLLM's requests none with {} came to the sidecar of {}",
                self.passed_on.describe(),
                self.pod
            );
            return (Outcome::Fault, text);
        };
        let what = request.method.as_deref().unwrap_or("request");
        let number = &request.request;
        if request.cookies.iter().any(|name| name == OTHER_COOKIE) {
            let text =
                format!("a {what} went to the server with a cookie that is not allowed (request {number})");
            return (Outcome::Fault, text);
        }
        let arrived = PassedOn {
            cookies: request.cookies.clone(),
            headers: request.headers.clone(),
        };
        if arrived != self.passed_on {
            let (arrived, wanted) = (arrived.describe(), self.passed_on.describe());
            let text = format!(
                "a {what} went to the server with {arrived}, and not with {wanted} (request {number})"
            );
            return (Outcome::Fault, text);
        }
        if !request.authorized {
            let text = format!("a {what} went to the server without a token (request {number})");
            return (Outcome::Fault, text);
        }
        let text = format!(
            "a {what} through LiteLLM in {} went to the server with the token and {}, and without the other cookie; ",
            self.pod,
            arrived.describe()
        );
        match request.status {
            None => (
                Outcome::Fault,
                format!("{text}the server did not answer (request {number})"),
            ),
            Some(status @ (401 | 403)) => (
                Outcome::Warning,
                format!("{text}the server answers {status} to the test user (request {number})"),
            ),
            Some(status) => (
                Outcome::Passed,
                format!("{text}the server answers {status} (request {number})"),
            ),
        }
    }

    /// Whether LiteLLM lists the server's tools.
    pub fn listing(&self) -> (Outcome, String) {
        match (self.tools, self.tools_without_user) {
            (0, None | Some(0)) => (
                match self.is_listed() {
                    true => Outcome::Warning,
                    false => Outcome::Fault,
                },
                "LiteLLM lists none of its tools: the server may have none, or its entry in mcp_servers or the key allow none"
                    .to_owned(),
            ),
            (0, Some(tools)) => (
                Outcome::Passed,
                format!("LiteLLM lists {tools} tools to a request without a user, and none to the test user"),
            ),
            (tools, _) => (Outcome::Passed, format!("LiteLLM lists {tools} tools")),
        }
    }
}

impl UserCall {
    /// Whether nothing speaks against the server's having answered with a list, which may be empty.
    fn is_listed(&self) -> bool {
        match &self.sent {
            Sent::Requests(requests) => requests
                .iter()
                .any(|request| is_list(request) && is_taken(request)),
            Sent::NothingToSend | Sent::Unknown(_) => true,
        }
    }
}

fn is_list(request: &SentRequest) -> bool {
    request.method.as_deref() == Some("tools/list")
}

/// A server by SSE takes messages with 202, and answers them in its stream.
fn is_taken(request: &SentRequest) -> bool {
    let status = request
        .status
        .and_then(|status| StatusCode::from_u16(status).ok());
    status.is_some_and(|status| status.is_success())
}

impl Sent {
    /// Whether it may be because of who asks that LiteLLM lists no tools. If not, nobody would be told more, after one more wait for
    /// a server that is silent.
    fn may_be_the_user_s(&self) -> bool {
        match self {
            Self::Requests(requests) => requests.iter().any(|request| match is_taken(request) {
                true => is_list(request),
                false => request.status.is_some(),
            }),
            Self::NothingToSend | Self::Unknown(_) => true,
        }
    }

    fn has_requests(&self) -> bool {
        matches!(self, Self::Requests(requests) if !requests.is_empty())
    }

    fn of_server(self, server: &str) -> Self {
        match self {
            Self::Requests(mut requests) => {
                requests.retain(|request| request.server == server);
                Self::Requests(requests)
            }
            other => other,
        }
    }
}

impl LiteLlmPorts<'_> {
    async fn tools(
        &self,
        server: &str,
        mut headers: HeaderMap,
        key: &SecretString,
    ) -> Result<usize, McpCallError> {
        headers.extend(HeaderValue::from_str(server).map(|server| (SERVERS_HEADER, server)));
        let counted = count_tools(&self.inbound, &self.path, Caller { key, headers }).await;
        counted.map_err(|error| match error {
            // So LiteLLM 1.110.2 opens no session for a server that the key may not use.
            McpCallError::Status {
                method: "initialize",
                status: StatusCode::FORBIDDEN,
                words,
            } => McpCallError::NotAllowed {
                server: server.to_owned(),
                words,
            },
            error => error,
        })
    }

    /// An error where the key may not use the server. LiteLLM 1.80.17 lists no tools then, as if there were none.
    async fn require_server_of_key(&self, server: &str, key: &SecretString) -> Result<(), McpCallError> {
        match servers_of_key(&self.inbound, &self.servers_path, key).await? {
            Some(names) if !names.iter().any(|name| name == server) => Err(McpCallError::NotAllowed {
                server: server.to_owned(),
                words: String::new(),
            }),
            _ => Ok(()),
        }
    }

    /// Asks the sidecar. The first time it begins to look out for the value.
    async fn sent(&self, value: &CheckValue) -> Result<Sent, McpCallError> {
        let request = Request::get(health::CONTEXT_CHECK)
            .header(health::POD_UID_HEADER, &self.pod_uid)
            .header(health::CHECK_VALUE_HEADER, value.as_str());
        let (head, body) = self
            .health
            .send("the sidecar's context check", request, String::new())
            .await?;
        Ok(said(&head, &body))
    }
}

fn said(head: &response::Parts, body: &Bytes) -> Sent {
    let unknown = |why: &str| Sent::Unknown(format!("what arrives of users cannot be seen: {why}"));
    match head.status {
        StatusCode::OK => match serde_json::from_slice::<SentRequests>(body) {
            Ok(sent) => Sent::Requests(sent.requests),
            Err(_) => unknown("the sidecar answers something that this program does not know"),
        },
        StatusCode::NOT_FOUND => {
            unknown("the sidecar is of an earlier version, which does not tell; restart the pod's workload")
        }
        StatusCode::FORBIDDEN => unknown(
            "the sidecar tells it only who comes from inside of the pod, and takes forwarded ports here for others",
        ),
        status => unknown(&format!("the sidecar answers {status}")),
    }
}

#[cfg(test)]
mod tests;
