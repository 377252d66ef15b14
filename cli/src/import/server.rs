//! One entry of `mcp_servers`: from LiteLLM's keys, as `load_servers_from_config` (1.109.1) reads them, to a
//! spec.

use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};
use mcp_auth_sidecar::control::litellm_config::node::{Node, Pair};
use serde_json::{Map, Value, json};

/// Prefix of values that LiteLLM takes from its environment.
const ENVIRONMENT: &str = "os.environ/";

const CLIENT_ID: &str = "client-id";
const CLIENT_SECRET: &str = "client-secret";
const PRIVATE_KEY: &str = "private-key";
const TOKEN: &str = "token";

/// Keys of client authentication that have no field in the resource, or that only LiteLLM's own flows use.
const NOT_CARRIED_OVER: [&str; 5] = [
    "token_exchange_endpoint",
    "token_exchange_profile",
    "id_jag_resource",
    "upstream_token_header",
    "token_validation",
];

pub struct Entry<'a> {
    server: &'a str,
    name: String,
    settings: &'a [Pair],
    secret_keys: Vec<SecretKey>,
    pub warnings: Vec<String>,
}

/// What came of an entry.
#[derive(Debug)]
pub struct Imported {
    /// Name of the resource.
    pub name: String,
    pub spec: Value,
    pub secret: Option<SecretToFillIn>,
}

#[derive(Debug)]
pub struct SecretToFillIn {
    pub name: String,
    pub keys: Vec<SecretKey>,
}

#[derive(Debug)]
pub struct SecretKey {
    pub name: &'static str,
    /// Where LiteLLM has the value from.
    pub origin: String,
}

impl<'a> Entry<'a> {
    pub fn new(server: &'a str, name: String, settings: &'a [Pair]) -> Self {
        Self {
            server,
            name,
            settings,
            secret_keys: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Nothing where the entry cannot be carried over or does not authenticate itself.
    pub fn import(&mut self) -> Option<Imported> {
        if self.is_set("command") || self.text("transport") == Some("stdio") {
            return self.leave("it runs a command (stdio), so there is no HTTP request to authenticate");
        }
        if self.is_set("spec_path") {
            return self.leave("it is made from an OpenAPI document, not from an MCP server");
        }
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
        if self.server.is_empty() || self.server.len() > 64 || !self.server.chars().all(is_name) {
            return self.leave(
                "its name is no spec.server.name, which takes 1 to 64 letters, digits and `_`; rename it",
            );
        }
        let server = self.server_spec()?;
        let mut spec = Map::from_iter([("server".to_owned(), server)]);
        let (field, authentication) = self.authentication()?;
        spec.insert(field.to_owned(), authentication);
        self.extra_headers(&mut spec);
        for key in NOT_CARRIED_OVER {
            if self.is_set(key) {
                self.warn(format!("{key} has no counterpart and is not carried over"));
            }
        }
        if self.static_authorization() {
            self.warn("Authorization in static_headers is replaced by the token");
        }
        let keys = std::mem::take(&mut self.secret_keys);
        Some(Imported {
            name: self.name.clone(),
            spec: Value::Object(spec),
            secret: (!keys.is_empty()).then(|| SecretToFillIn {
                name: self.secret_name(),
                keys,
            }),
        })
    }

    fn server_spec(&mut self) -> Option<Value> {
        let url = match self.literal("url") {
            Literal::Text(url) => url,
            Literal::Absent => return self.leave("it has no url"),
            Literal::Unknown(why) => return self.leave(&format!("its url {why}; write the url out")),
        };
        let mut server = Map::from_iter([
            ("name".to_owned(), json!(self.server)),
            ("url".to_owned(), json!(url)),
        ]);
        match self.text("transport") {
            Some("sse") => {
                server.insert("transport".to_owned(), json!("SSE"));
            }
            None | Some("http") => {}
            Some(_) => self.warn("its transport is neither http nor sse; StreamableHTTP is assumed"),
        }
        if url.starts_with("http://") {
            self.warn("its url is plain http, by which the token and users' cookies are readable on the way");
            server.insert("allowInsecureHttp".to_owned(), json!(true));
        }
        Some(Value::Object(server))
    }

    /// The field of the spec, and its value.
    fn authentication(&mut self) -> Option<(&'static str, Value)> {
        match self.text("auth_type") {
            Some("oauth2") => Some(("oauth2", self.oauth2()?)),
            Some("bearer_token") => {
                let key = match self.is_set("authentication_token") {
                    true => "authentication_token",
                    false => "auth_value",
                };
                if !self.is_set(key) {
                    return self.leave("auth_type is bearer_token, and there is no authentication_token");
                }
                let reference = self.secret_ref(TOKEN, key);
                Some(("bearerToken", json!({"secretKeyRef": reference})))
            }
            None | Some("none") => self.leave("it does not authenticate itself to its server"),
            Some("oauth2_token_exchange" | "oauth2_id_jag") => self.leave(
                "its auth_type exchanges users' tokens: write spec.oauth2.tokenExchange by hand, see docs/oauth.md",
            ),
            Some("true_passthrough" | "oauth_delegate") => {
                self.leave("its auth_type passes on tokens of the caller's own, and no service has one")
            }
            Some(_) => self.leave(
                "its auth_type is neither oauth2 nor bearer_token: the resource knows only OAuth2 and bearer tokens",
            ),
        }
    }

    fn oauth2(&mut self) -> Option<Value> {
        if self.text("oauth2_flow") != Some("client_credentials") {
            if self.is_set("authorization_url") || !self.is_set("client_id") {
                return self.leave(
                    "its OAuth2 is the interactive one of each user (no oauth2_flow: client_credentials), and a \
                     service cannot log in that way",
                );
            }
            self.warn(
                "it has no oauth2_flow: client_credentials; the resource requests tokens by that grant, so see \
                 that the client may use it",
            );
        }
        let mut oauth2 = Map::new();
        for (key, field) in [("token_url", "tokenUrl"), ("issuer", "issuer")] {
            match self.literal(key) {
                // The endpoint that is stated needs no discovery.
                Literal::Text(_) if oauth2.contains_key("tokenUrl") => {}
                Literal::Text(url) => {
                    if url.starts_with("http://") {
                        oauth2.insert("allowInsecureHttp".to_owned(), json!(true));
                        self.warn(format!(
                            "its {key} is plain http, by which the secret is readable on the way"
                        ));
                    }
                    oauth2.insert(field.to_owned(), json!(url));
                }
                Literal::Absent => {}
                Literal::Unknown(why) => return self.leave(&format!("its {key} {why}; write it out")),
            }
        }
        match self.literal("client_id") {
            Literal::Text(id) => {
                oauth2.insert("clientId".to_owned(), json!(id));
            }
            Literal::Absent => return self.leave("it has no client_id"),
            Literal::Unknown(_) => {
                let reference = self.secret_ref(CLIENT_ID, "client_id");
                oauth2.insert("clientIdSecretRef".to_owned(), reference);
            }
        }
        oauth2.insert("clientAuthentication".to_owned(), self.client_authentication()?);
        let scopes = self.scopes();
        if !scopes.is_empty() {
            oauth2.insert("scopes".to_owned(), json!(scopes));
        }
        for (key, field) in [("audience", "audience"), ("upstream_resource", "resource")] {
            match self.literal(key) {
                Literal::Text(value) => {
                    oauth2.insert(field.to_owned(), json!(value));
                }
                Literal::Absent => {}
                Literal::Unknown(why) => {
                    self.warn(format!("its {key} {why}; write it into spec.oauth2.{field}"));
                }
            }
        }
        Some(Value::Object(oauth2))
    }

    fn client_authentication(&mut self) -> Option<Value> {
        if self.is_set("client_private_key") {
            let key = self.secret_ref(PRIVATE_KEY, "client_private_key");
            let mut by_key = Map::from_iter([("keyRef".to_owned(), key)]);
            if let Literal::Text(id) = self.literal("client_private_key_id") {
                by_key.insert("keyId".to_owned(), json!(id));
            }
            match self.text("client_assertion_signing_alg") {
                Some(algorithm @ ("RS256" | "PS256" | "ES256" | "ES384" | "ES512" | "EdDSA")) => {
                    by_key.insert("algorithm".to_owned(), json!(algorithm));
                }
                None => {}
                Some(_) => self.warn(
                    "its client_assertion_signing_alg is none of RS256, PS256, ES256, ES384, ES512, EdDSA; the key decides",
                ),
            }
            return Some(json!({"method": "PrivateKeyJwt", "privateKeyJwt": by_key}));
        }
        if !self.is_set("client_secret") {
            return self.leave("it has neither client_secret nor client_private_key");
        }
        // LiteLLM's default.
        let method = match self.text("token_endpoint_auth_method") {
            Some("client_secret_basic") => "ClientSecretBasic",
            None | Some("client_secret_post") => "ClientSecretPost",
            Some(_) => {
                self.warn("its token_endpoint_auth_method is not known; client_secret_post is assumed");
                "ClientSecretPost"
            }
        };
        let reference = self.secret_ref(CLIENT_SECRET, "client_secret");
        Some(json!({"method": method, "clientSecretRef": reference}))
    }

    /// A list, or a text with spaces between.
    fn scopes(&mut self) -> Vec<String> {
        let Some(value) = self.get("scopes").filter(|value| !value.is_empty()) else {
            return Vec::new();
        };
        let texts: Option<Vec<&str>> = match (value.as_str(), value.as_sequence()) {
            (Some(text), _) => Some(text.split_whitespace().collect()),
            (None, Some(items)) => items.iter().map(|item| item.as_str()).collect(),
            (None, None) => None,
        };
        let known = texts.filter(|texts| !texts.iter().any(|text| text.starts_with(ENVIRONMENT)));
        match known {
            Some(texts) => texts.into_iter().map(str::to_owned).collect(),
            None => {
                self.warn("its scopes are no texts that are written out; list them in spec.oauth2.scopes");
                Vec::new()
            }
        }
    }

    /// Cookies and headers of users that LiteLLM passes on.
    fn extra_headers(&mut self, spec: &mut Map<String, Value>) {
        let listed = self
            .get("extra_headers")
            .and_then(Node::as_sequence)
            .unwrap_or_default();
        let names: Vec<&str> = listed
            .iter()
            .filter_map(|name| name.as_str())
            .map(str::trim)
            .collect();
        let mut passed_on = Vec::new();
        for name in names {
            let lower = name.to_ascii_lowercase();
            if lower == "cookie" {
                self.warn(
                    "LiteLLM passes on all cookies of users (extra_headers: Cookie); the resource takes names: \
                     list them in spec.cookiePassthrough.cookieNames and set enabled: true",
                );
                spec.insert("cookiePassthrough".to_owned(), json!({"enabled": false}));
            } else if DENIED_HEADERS.contains(&lower.as_str())
                || DENIED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
            {
                self.warn(format!(
                    "the header {name} of extra_headers never says who the user is and is not carried over"
                ));
            } else {
                passed_on.push(name);
            }
        }
        if !passed_on.is_empty() {
            spec.insert("headerPassthrough".to_owned(), json!({"headerNames": passed_on}));
        }
    }

    fn static_authorization(&self) -> bool {
        let headers = self.get("static_headers").and_then(Node::as_mapping);
        headers.is_some_and(|headers| {
            let mut names = headers.pairs.iter().filter_map(|(name, _)| name.as_str());
            names.any(|name| name.trim().eq_ignore_ascii_case("authorization"))
        })
    }

    /// A reference to a key of the entry's Secret, which is to be filled in with what `setting` holds.
    fn secret_ref(&mut self, key: &'static str, setting: &str) -> Value {
        let variable = self.text(setting).and_then(|text| text.strip_prefix(ENVIRONMENT));
        let origin = match variable {
            Some(variable) => format!(
                "{setting}, in LiteLLM's environment {}",
                crate::output::clean(variable)
            ),
            None => format!("{setting}, in LiteLLM's configuration"),
        };
        self.secret_keys.push(SecretKey { name: key, origin });
        json!({"name": self.secret_name(), "key": key})
    }

    fn secret_name(&self) -> String {
        format!("{}-oauth", self.name)
    }

    fn get(&self, key: &str) -> Option<&'a Node> {
        let mut settings = self.settings.iter();
        settings
            .find(|(name, _)| name.as_str() == Some(key))
            .map(|(_, value)| &**value)
    }

    fn is_set(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_empty())
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    fn literal(&self, key: &str) -> Literal<'a> {
        match self.get(key).filter(|value| !value.is_empty()) {
            None => Literal::Absent,
            Some(value) => match value.as_str() {
                None => Literal::Unknown("is no text"),
                Some(text) if text.contains(ENVIRONMENT) => {
                    Literal::Unknown("comes from LiteLLM's environment")
                }
                Some(text) => Literal::Text(text),
            },
        }
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    fn leave<T>(&mut self, why: &str) -> Option<T> {
        self.warn(format!("left out: {why}"));
        None
    }
}

/// A setting as it stands in the file.
enum Literal<'a> {
    Text(&'a str),
    Absent,
    /// Only LiteLLM knows it, and why.
    Unknown(&'static str),
}
