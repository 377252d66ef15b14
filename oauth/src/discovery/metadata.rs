//! What metadata documents say: of an authorization server (RFC 8414 section 2), of a protected resource (RFC
//! 9728 section 2).

use mcp_auth_http_auth::valid_scopes;
use oauth2::{Scope, TokenUrl};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::well_known;

/// Issuers looked at of a resource's metadata.
const MAX_ISSUERS: usize = 16;
/// Values kept of what an authorization server lists, and the longest.
const MAX_LISTED: usize = 256;
const MAX_LISTED_BYTES: usize = 200;

/// What an authorization server says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServerMetadata {
    pub issuer: String,
    /// What its access tokens name as their issuer where that is another one: `access_token_issuer` of Active
    /// Directory Federation Services.
    pub token_issuer: Option<String>,
    pub token_endpoint: TokenUrl,
    /// Of `mtls_endpoint_aliases` (RFC 8705 section 5): for clients that authenticate by certificate or bind
    /// tokens to it.
    pub mtls_token_endpoint: Option<String>,
    pub revocation_endpoint: Option<String>,
    /// As [`Self::mtls_token_endpoint`].
    pub mtls_revocation_endpoint: Option<String>,
    /// What the MCP server's metadata call it (RFC 9728): the `resource` of token requests for it.
    pub resource: Option<String>,
    /// Scopes that the MCP server's challenge or metadata name, for a registration without scopes of its own.
    pub scopes: Vec<Scope>,
    /// Where those come from.
    pub scope_origin: ScopeOrigin,
    /// What the metadata list. Of no use once there is a token, and not handed on with it.
    #[serde(skip)]
    pub supported: Supported,
}

/// What an authorization server's metadata list (RFC 8414 section 2, RFC 9449 section 5.1). Empty: they do not say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Supported {
    /// Whether there were metadata.
    pub is_stated: bool,
    pub grant_types: Vec<String>,
    pub auth_methods: Vec<String>,
    pub auth_algorithms: Vec<String>,
    pub scopes: Vec<String>,
    pub dpop_algorithms: Vec<String>,
}

impl Supported {
    fn read(fields: &Map<String, Value>) -> Self {
        let list = |field| {
            let values = strings(fields, field).filter(|value| is_plain(value));
            values.take(MAX_LISTED).map(str::to_owned).collect()
        };
        Self {
            is_stated: true,
            grant_types: list("grant_types_supported"),
            auth_methods: list("token_endpoint_auth_methods_supported"),
            auth_algorithms: list("token_endpoint_auth_signing_alg_values_supported"),
            scopes: list("scopes_supported"),
            dpop_algorithms: list("dpop_signing_alg_values_supported"),
        }
    }
}

/// Whether a value of a list may be repeated in a status.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.len() <= MAX_LISTED_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Who names scopes for a registration that states none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum ScopeOrigin {
    /// `scope` of the MCP server's challenge (RFC 6750 section 3).
    #[default]
    Challenge,
    /// `scopes_supported` of its metadata (RFC 9728 section 2).
    Metadata,
}

/// What a protected resource says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Resource {
    pub name: String,
    /// At least one.
    pub issuers: Vec<String>,
    pub scopes: Vec<String>,
}

/// Why a document cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum MetadataError {
    /// Another issuer than the one that was asked for.
    Issuer { found: String },
    Field {
        field: &'static str,
        problem: &'static str,
    },
}

/// Reads an authorization server's metadata. `is_expected` compares the issuer (RFC 8414 section 3.3), which
/// keeps one server from giving itself out as another.
pub(crate) fn server(
    fields: &Map<String, Value>,
    is_expected: impl Fn(&str) -> bool,
    allow_insecure_http: bool,
) -> Result<ServerMetadata, MetadataError> {
    let issuer = text(fields, "issuer")?;
    if !is_expected(issuer) {
        return Err(MetadataError::Issuer {
            found: issuer.to_owned(),
        });
    }
    let endpoint = |text: &str| well_known::parse(text, allow_insecure_http);
    let field = "token_endpoint";
    let token_endpoint =
        endpoint(text(fields, field)?).map_err(|problem| MetadataError::Field { field, problem })?;
    // What cannot be used of these is left out: not everyone needs them.
    let optional = |fields: &Map<String, Value>, name| {
        let text = fields.get(name)?.as_str()?;
        endpoint(text)
            .inspect_err(|problem| tracing::debug!(name, problem, "endpoint left out"))
            .ok()
            .map(String::from)
    };
    let aliases = fields.get("mtls_endpoint_aliases").and_then(Value::as_object);
    let alias = |name| aliases.and_then(|aliases| optional(aliases, name));
    Ok(ServerMetadata {
        issuer: issuer.to_owned(),
        token_issuer: text(fields, "access_token_issuer").ok().map(str::to_owned),
        token_endpoint: TokenUrl::from_url(token_endpoint),
        mtls_token_endpoint: alias(field),
        revocation_endpoint: optional(fields, "revocation_endpoint"),
        mtls_revocation_endpoint: alias("revocation_endpoint"),
        resource: None,
        scopes: Vec::new(),
        scope_origin: ScopeOrigin::default(),
        supported: Supported::read(fields),
    })
}

/// Reads a protected resource's metadata. Whose they are is not compared here.
pub(crate) fn resource(fields: &Map<String, Value>) -> Result<Resource, MetadataError> {
    let name = text(fields, "resource")?.to_owned();
    let issuers: Vec<_> = strings(fields, "authorization_servers")
        .take(MAX_ISSUERS)
        .map(str::to_owned)
        .collect();
    if issuers.is_empty() {
        return Err(MetadataError::Field {
            field: "authorization_servers",
            problem: "names none",
        });
    }
    let scopes = valid_scopes(strings(fields, "scopes_supported"));
    Ok(Resource {
        name,
        issuers,
        scopes,
    })
}

fn text<'a>(fields: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, MetadataError> {
    let problem = match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => return Ok(text),
        Some(Value::String(_)) => "is empty",
        Some(_) => "is not a string",
        None => "is missing",
    };
    Err(MetadataError::Field { field, problem })
}

fn strings<'a>(fields: &'a Map<String, Value>, field: &str) -> impl Iterator<Item = &'a str> {
    let values = fields.get(field).and_then(Value::as_array);
    values.into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://auth.example.com";

    fn read(document: Value) -> Result<ServerMetadata, MetadataError> {
        server(document.as_object().unwrap(), |issuer| issuer == ISSUER, false)
    }

    fn read_resource(document: Value) -> Result<Resource, MetadataError> {
        resource(document.as_object().unwrap())
    }

    fn problem(field: &'static str, problem: &'static str) -> MetadataError {
        MetadataError::Field { field, problem }
    }

    #[test]
    fn reads_the_endpoints_of_a_server() {
        let metadata = read(json!({
            "issuer": ISSUER,
            "access_token_issuer": "http://auth.example.com/trust",
            "token_endpoint": "https://auth.example.com/token",
            "revocation_endpoint": "https://auth.example.com/revoke",
            "mtls_endpoint_aliases": {
                "token_endpoint": "https://mtls.example.com/token",
                "revocation_endpoint": "https://mtls.example.com/revoke",
            },
            "scopes_supported": ["openid"],
        }));
        assert_eq!(
            metadata,
            Ok(ServerMetadata {
                issuer: ISSUER.into(),
                token_issuer: Some("http://auth.example.com/trust".into()),
                token_endpoint: TokenUrl::new("https://auth.example.com/token".into()).unwrap(),
                mtls_token_endpoint: Some("https://mtls.example.com/token".into()),
                revocation_endpoint: Some("https://auth.example.com/revoke".into()),
                mtls_revocation_endpoint: Some("https://mtls.example.com/revoke".into()),
                resource: None,
                scopes: vec![],
                scope_origin: ScopeOrigin::Challenge,
                supported: Supported {
                    is_stated: true,
                    scopes: vec!["openid".into()],
                    ..Supported::default()
                },
            })
        );
    }

    #[test]
    fn another_issuer_than_the_expected_one_is_refused() {
        for issuer in [
            "https://auth.example.com/",
            "https://AUTH.example.com",
            "https://auth.example.com:443",
            "https://evil.example.com",
        ] {
            let document = json!({"issuer": issuer, "token_endpoint": "https://auth.example.com/token"});
            assert_eq!(
                read(document),
                Err(MetadataError::Issuer { found: issuer.into() })
            );
        }
    }

    #[test]
    fn a_field_that_is_needed_and_cannot_be_used_is_named() {
        assert_eq!(read(json!({})), Err(problem("issuer", "is missing")));
        for (value, expected) in [
            (Value::Null, "is not a string"),
            (json!(""), "is empty"),
            (json!("/token"), "is not an absolute URL"),
            (
                json!("http://auth.example.com/token"),
                "is plain http, which would show secrets to everyone on the way, and allowInsecureHttp is \
                 not set",
            ),
            (json!("file:///etc/passwd"), "is neither an https nor an http URL"),
        ] {
            let document = json!({"issuer": ISSUER, "token_endpoint": value});
            assert_eq!(read(document), Err(problem("token_endpoint", expected)));
        }
    }

    #[test]
    fn optional_endpoints_that_cannot_be_used_are_left_out() {
        let metadata = read(json!({
            "issuer": ISSUER,
            "token_endpoint": "https://auth.example.com/token",
            "revocation_endpoint": "http://auth.example.com/revoke",
            "mtls_endpoint_aliases": ["x"],
        }))
        .unwrap();
        assert_eq!(
            (metadata.revocation_endpoint, metadata.mtls_token_endpoint),
            (None, None)
        );
        let metadata = read(json!({
            "issuer": ISSUER,
            "token_endpoint": "https://auth.example.com/token",
            "mtls_endpoint_aliases": {"revocation_endpoint": "http://mtls.example.com/revoke"},
        }))
        .unwrap();
        assert_eq!(metadata.mtls_revocation_endpoint, None);
    }

    #[test]
    fn reads_what_a_resource_says() {
        let metadata = read_resource(json!({
            "resource": "https://tools.example.com/mcp",
            "authorization_servers": [7, ISSUER, "https://other.example.com"],
            "scopes_supported": ["a", "b c", 7, "a"],
        }))
        .unwrap();
        assert_eq!(metadata.issuers, [ISSUER, "https://other.example.com"]);
        assert_eq!(metadata.scopes, ["a"]);
        let none = Err(problem("authorization_servers", "names none"));
        assert_eq!(read_resource(json!({"resource": "x"})), none);
        assert_eq!(
            read_resource(json!({"authorization_servers": [ISSUER]})),
            Err(problem("resource", "is missing"))
        );
    }
}
