//! The echo as one of LiteLLM's MCP servers: how it is authenticated to, what a user sends, and whether that arrived.

use std::io;
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::references::Lookup;
use reqwest::header::HeaderValue;
use serde_json::json;

use super::echo_server::EchoServer;
use super::report::Finding;
use crate::exit::ExitError;
use crate::protected_server::ProtectedServer;

/// The name among LiteLLM's MCP servers.
pub const ECHO: &str = "mcpauth_check";
const ALLOWED_COOKIE: &str = "mcpauth_check_allowed";
const OTHER_COOKIE: &str = "mcpauth_check_other";
/// What the headers between the proxies and LiteLLM begin with.
const OWN_PREFIX: &str = "mcpauth-";
const RANDOM_BYTES: usize = 16;

/// The echo, and what is sent to it.
pub struct Echo {
    server: EchoServer,
    token: String,
    cookie: String,
}

impl Echo {
    pub async fn start() -> Result<Self, ExitError> {
        let system = |error: io::Error| ExitError::System {
            what: "the check's own MCP server cannot be started",
            kind: error.kind(),
        };
        let token = random();
        Ok(Self {
            server: EchoServer::start(&token).await.map_err(system)?,
            token,
            cookie: random(),
        })
    }

    /// As it is authenticated to: by a token from a Secret.
    pub fn protected(&self) -> ProtectedServer {
        let resource: McpServerAuth = serde_json::from_value(json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": format!("mcp_servers.{ECHO}")},
            "spec": {
                "server": {
                    "name": ECHO,
                    "url": format!("http://{}/mcp", self.server.address),
                    "allowInsecureHttp": true,
                },
                "bearerToken": {"secretKeyRef": {"name": "check", "key": "token"}},
                "cookiePassthrough": {"enabled": true, "cookieNames": [ALLOWED_COOKIE]},
            },
        }))
        .expect("it is made of what the resource has");
        let token = self.token.as_bytes().to_vec();
        let data = Lookup::Found(Arc::new([("token".to_owned(), token.into())].into()));
        ProtectedServer::new(resource, |_| data.clone())
    }

    /// The cookies of the user that the check is: one is allowed.
    pub fn cookies(&self) -> String {
        format!("{OTHER_COOKIE}={}; {}", self.cookie, self.allowed_cookie())
    }

    fn allowed_cookie(&self) -> String {
        format!("{ALLOWED_COOKIE}={}", self.cookie)
    }

    /// Of the last tool call: the token and the allowed cookie, and nothing else of the user's.
    /// `key`: LiteLLM's, which the user sent too.
    pub fn arrived(&self, key: Option<&str>) -> Finding {
        let headers = self.server.last("tools/call").unwrap_or_default();
        let text = |name: &str| {
            let values = headers.get_all(name).iter();
            let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            texts.collect::<Vec<_>>().join("; ")
        };
        if text("authorization") != format!("Bearer {}", self.token) {
            return Err("the tool call arrives without the server's token".to_owned());
        }
        let cookies = text("cookie");
        if cookies != self.allowed_cookie() {
            let names = cookies.split("; ").filter_map(|cookie| cookie.split('=').next());
            let names = names
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>()
                .join(", ");
            return Err(match names.as_str() {
                "" => "the tool call arrives without the user's allowed cookie".to_owned(),
                names => format!("the tool call arrives with the cookies {names}, and one alone is allowed"),
            });
        }
        let is_leaked = |value: &HeaderValue| {
            key.is_some_and(|key| String::from_utf8_lossy(value.as_bytes()).contains(key))
        };
        if let Some((name, _)) = headers.iter().find(|(_, value)| is_leaked(value)) {
            return Err(format!(
                "the tool call arrives with LiteLLM's key in the header {name}"
            ));
        }
        let ours = headers.keys().find(|name| name.as_str().starts_with(OWN_PREFIX));
        if let Some(name) = ours {
            return Err(format!("the tool call arrives with mcp-auth's own header {name}"));
        }
        let arrived = "a tool call arrives with the token and the allowed cookie, and without the other one";
        Ok(match key {
            Some(_) => arrived.to_owned(),
            None => format!("{arrived}; LiteLLM's key was not looked for, since none was found"),
        })
    }
}

fn random() -> String {
    let bytes: [u8; RANDOM_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
