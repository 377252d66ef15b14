//! One entry of `mcp_servers`, with its `auth` block or the variables' client registration, as the resource that it
//! would be on Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::references::Lookup;
use mcp_auth_sidecar::control::litellm_config::AUTH_BLOCK;
use mcp_auth_sidecar::control::litellm_config::node::{Budget, Node, Pair};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::{Host, Url};

use super::ServerError;
use crate::auth_block::{self, Auth, AuthBlock, CookieBlock, OAuth2Block};
use crate::protected_server::{ProtectedServer, entry_resource_name};
use crate::settings::{Defaults, TOKEN_URL, Variables};

/// The key of the one secret that each server has here.
const SECRET_KEY: &str = "client_secret";
/// LiteLLM's own UI session.
const LITELLM_COOKIE: &str = "token";
/// LiteLLM's keys with which an entry authenticates by itself.
const OWN_AUTHENTICATION: [&str; 3] = ["auth_type", "auth_value", "authentication_token"];

/// The client registration of the variables.
pub enum Defaulted {
    Set(Defaults),
    Unset,
    /// It is half set, or its file cannot be read.
    Unusable,
}

impl From<Option<Defaults>> for Defaulted {
    fn from(defaults: Option<Defaults>) -> Self {
        defaults.map_or(Self::Unset, Self::Set)
    }
}

/// What an entry of `mcp_servers` asks for.
pub enum Wanted {
    Protected(Box<ProtectedServer>),
    /// The client registration of the variables, which cannot be used.
    Defaults,
    Nothing,
}

/// Reads one server.
pub struct Reader<'a> {
    pub name: &'a str,
    pub variables: &'a Variables,
    pub used: &'a mut BTreeSet<String>,
    pub ignored: &'a mut Vec<String>,
}

impl Reader<'_> {
    pub fn server(
        &mut self,
        entry: &[Pair],
        defaults: &Defaulted,
        budget: &mut Budget,
    ) -> Result<Wanted, ServerError> {
        let get = |key: &str| {
            entry
                .iter()
                .find(|(k, _)| k.as_str() == Some(key))
                .map(|(_, value)| &**value)
        };
        let stated = |key: &str| get(key).filter(|node| !node.is_empty());
        let field = format!("mcp_servers.{}.{AUTH_BLOCK}", self.name);
        let block = match get(AUTH_BLOCK).filter(|node| !node.is_null()) {
            Some(node) => match auth_block::parse(node, &field, budget)? {
                Auth::Off => return Ok(self.without_token("its auth is false")),
                Auth::On(block) => Some(*block),
            },
            None => None,
        };
        let has_own = OWN_AUTHENTICATION
            .iter()
            .any(|key| stated(key).is_some_and(|node| node.as_str() != Some("none")));
        let is_http = stated("url").is_some() && stated("command").is_none() && stated("spec_path").is_none();
        match (&block, defaults) {
            // What LiteLLM authenticates to by itself stays so, unless a block says otherwise.
            (None, Defaulted::Unset) => return Ok(Wanted::Nothing),
            (None, _) if has_own => {
                return Ok(self.without_token("LiteLLM authenticates to it by itself"));
            }
            (None, _) if !is_http => return Ok(self.without_token("it is not reached by a url")),
            (Some(_), _) if !is_http => return Err(ServerError::NoUrl(self.name.to_owned())),
            _ => {}
        }
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(is_letter) {
            return Err(ServerError::Name(self.name.to_owned()));
        }
        let url = self.url(get("url"))?;
        let block = block.unwrap_or_default();
        let transport = match stated("transport").and_then(Node::as_str) {
            Some("sse") => "SSE",
            _ => "StreamableHTTP",
        };
        self.protected(&url, transport, block, defaults)
    }

    fn without_token(&mut self, why: &str) -> Wanted {
        self.ignored
            .push(format!("mcp_servers.{} gets no token: {why}", self.name));
        Wanted::Nothing
    }

    /// The URL, which may be a variable of LiteLLM's.
    fn url(&self, node: Option<&Node>) -> Result<String, ServerError> {
        let text = node.and_then(Node::as_str);
        let text = text.and_then(|text| match text.strip_prefix("os.environ/") {
            Some(variable) => self.variables.get(variable),
            None => Some(text),
        });
        text.map(str::to_owned).ok_or_else(|| ServerError::Url {
            field: format!("mcp_servers.{}.url", self.name),
        })
    }

    fn protected(
        &mut self,
        url: &str,
        transport: &str,
        block: AuthBlock,
        defaults: &Defaulted,
    ) -> Result<Wanted, ServerError> {
        let insecure = block.allow_insecure_http;
        check_url(url, format!("mcp_servers.{}.url", self.name), insecure)?;
        let (oauth2, secret) = match (block.oauth2, defaults) {
            (Some(stated), _) => self.oauth2(stated, insecure)?,
            (None, Defaulted::Set(defaults)) => (
                self.by_default(defaults, insecure)?,
                defaults.client_secret.clone(),
            ),
            (None, Defaulted::Unusable) => return Ok(Wanted::Defaults),
            (None, Defaulted::Unset) => return Err(ServerError::NoOAuth2(self.name.to_owned())),
        };
        let spec = json!({
            "server": {"name": self.name, "url": url, "transport": transport, "allowInsecureHttp": true},
            "oauth2": oauth2,
            "cookiePassthrough": self.cookies(block.cookies)?,
        });
        let resource = json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": entry_resource_name(self.name)},
            "spec": spec,
        });
        let resource: McpServerAuth =
            serde_json::from_value(resource).expect("it is made of what the resource has");
        let secret = secret.expose_secret().as_bytes().to_vec();
        let data = Lookup::Found(Arc::new([(SECRET_KEY.to_owned(), secret.into())].into()));
        let server = ProtectedServer::new(resource, |_| data.clone());
        match server.desired(None) {
            Ok(_) => Ok(Wanted::Protected(Box::new(server))),
            Err(problem) => Err(ServerError::NotServed {
                field: format!("mcp_servers.{}", self.name),
                problem,
            }),
        }
    }

    fn oauth2(&mut self, block: OAuth2Block, insecure: bool) -> Result<(Value, SecretString), ServerError> {
        let prefix = format!("mcp_servers.{}.auth.oauth2", self.name);
        let (variables, used) = (self.variables, &mut *self.used);
        let mut text = |value: Option<String>, key: &str| {
            let expand = |value: String| variables.expand_text(&value, &format!("{prefix}.{key}"), used);
            value.map(expand).transpose()
        };
        let token_url = text(block.token_url, "token_url")?;
        let issuer = text(block.issuer, "issuer")?;
        let client_id = text(Some(block.client_id), "client_id")?;
        let audience = text(block.audience, "audience")?;
        let resource = text(block.resource, "resource")?;
        let mut extra = BTreeMap::new();
        for (key, value) in block.extra_parameters {
            extra.insert(
                key.clone(),
                text(Some(value), &format!("extra_parameters.{key}"))?,
            );
        }
        let endpoint = match (&token_url, &issuer) {
            (Some(url), None) => (url, "token_url"),
            (None, Some(url)) => (url, "issuer"),
            _ => return Err(ServerError::Endpoint(self.name.to_owned())),
        };
        check_url(endpoint.0, format!("{prefix}.{}", endpoint.1), insecure)?;
        let method = match block.client_authentication.as_deref() {
            None | Some("client_secret_basic") => "ClientSecretBasic",
            Some("client_secret_post") => "ClientSecretPost",
            Some(_) => {
                return Err(ServerError::ClientAuthentication(format!(
                    "{prefix}.client_authentication"
                )));
            }
        };
        let field = format!("{prefix}.{SECRET_KEY}");
        let secret = self.variables.expand(&block.client_secret, &field, self.used)?;
        let oauth2 = json!({
            "tokenUrl": token_url,
            "issuer": issuer,
            "clientId": client_id,
            "clientAuthentication": self.by_secret(method),
            "scopes": block.scopes,
            "audience": audience,
            "resource": resource,
            "extraParameters": extra,
            "allowInsecureHttp": true,
        });
        Ok((oauth2, secret))
    }

    fn by_default(&self, defaults: &Defaults, insecure: bool) -> Result<Value, ServerError> {
        check_url(&defaults.token_url, TOKEN_URL.to_owned(), insecure)?;
        Ok(json!({
            "tokenUrl": defaults.token_url,
            "clientId": defaults.client_id,
            "clientAuthentication": self.by_secret("ClientSecretBasic"),
            "scopes": defaults.scopes,
            "audience": defaults.audience,
            "resource": defaults.resource,
            "allowInsecureHttp": true,
        }))
    }

    fn by_secret(&self, method: &str) -> Value {
        json!({"method": method, "clientSecretRef": {"name": self.name, "key": SECRET_KEY}})
    }

    fn cookies(&self, block: CookieBlock) -> Result<Value, ServerError> {
        let wrong = |problem| ServerError::Cookies {
            field: format!("mcp_servers.{}.auth.cookie_passthrough.cookie_names", self.name),
            problem,
        };
        if block.enabled && block.cookie_names.is_empty() {
            return Err(wrong("must name the cookies to pass on: there is no wildcard"));
        }
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
        let is_name = |name: &String| (1..=128).contains(&name.len()) && name.bytes().all(is_letter);
        if !block.cookie_names.iter().all(is_name) {
            return Err(wrong(
                "holds something that is no cookie's name (RFC 6265 section 4.1.1; no patterns)",
            ));
        }
        if block.cookie_names.iter().any(|name| name == LITELLM_COOKIE) {
            return Err(wrong(
                "the cookie `token` is LiteLLM's own UI session and is never passed on",
            ));
        }
        Ok(json!({"enabled": block.enabled, "cookieNames": block.cookie_names}))
    }
}

/// `insecure` allows plain http to other machines; to this one it is always allowed.
fn check_url(text: &str, field: String, insecure: bool) -> Result<(), ServerError> {
    let url = Url::parse(text).ok().filter(|url| {
        let has_user = !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "http" | "https") && url.has_host() && !has_user && url.fragment().is_none()
    });
    let Some(url) = url else {
        return Err(ServerError::Url { field });
    };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() == "https" || is_here || insecure {
        true => Ok(()),
        false => Err(ServerError::PlainHttp { field }),
    }
}
