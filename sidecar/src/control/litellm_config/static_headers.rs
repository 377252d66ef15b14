//! Static headers: the keys of a gateway before an MCP server that LiteLLM's configuration states in `static_headers`.
//!
//! The outbound half drops headers of such names, since a client could have sent them for LiteLLM. So the overlay calls
//! those of the configuration by another name, which no client knows, and the outbound half calls them by their own
//! again. LiteLLM still fills in the values, which may come from its environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::write::write;

/// Names of gateway keys, in lower case and with dashes.
const GATEWAY_KEYS: [&str; 4] = [
    "api-key",
    "ocp-apim-subscription-key",
    "x-api-key",
    "x-goog-api-key",
];
/// What else is never passed on: cookies and proofs, and where a request came from.
const DROPPED: [&str; 5] = ["cookie", "dpop", "forwarded", "x-litellm-api-key", "x-mcp-auth"];
const DROPPED_PREFIXES: [&str; 2] = ["mcpauth-", "x-forwarded-"];
const FILE: &str = "static-headers";
const TOKEN_CHARACTERS: usize = 32;

/// Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct StaticHeaders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `mcpauth-static-`, something random, and a dash.
    prefix: String,
    /// Whether an overlay has used it: before that no request has such a header.
    is_used: AtomicBool,
    /// Where the next process of the sidecar finds the prefix, once it is used.
    path: PathBuf,
    token: String,
}

impl StaticHeaders {
    /// With the prefix of an earlier process, which stands in `folder`: LiteLLM has read it in the overlay. A folder
    /// that cannot be written to costs the keys after a restart of the sidecar, and nothing now.
    pub fn resume(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let is_token = |text: &String| {
            text.len() == TOKEN_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let known = std::fs::read_to_string(&path).ok().filter(is_token);
        let is_used = known.is_some();
        let token = known.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        Self(Arc::new(Inner {
            prefix: format!("mcpauth-static-{token}-"),
            is_used: AtomicBool::new(is_used),
            path,
            token,
        }))
    }

    /// The name by which LiteLLM is to send a header of the configuration: another one for the keys of gateways.
    pub fn overlay_name(&self, name: &str) -> Option<String> {
        let lower = name.trim().to_ascii_lowercase();
        if !GATEWAY_KEYS.contains(&lower.replace('_', "-").as_str()) {
            return None;
        }
        if !self.0.is_used.swap(true, Ordering::Relaxed)
            && let Err(error) = write(&self.0.path, &self.0.token)
        {
            tracing::warn!(%error, "the names of static headers will change when the sidecar restarts");
        }
        Some(format!("{}{lower}", self.0.prefix))
    }

    /// Takes the headers of the configuration out of a request, by their own names.
    pub fn take(&self, headers: &mut HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        if !self.0.is_used.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let own_name = |name: &HeaderName| {
            let own = name.as_str().strip_prefix(self.0.prefix.as_str())?;
            HeaderName::try_from(own).ok()
        };
        let renamed: Vec<_> = headers
            .keys()
            .filter_map(|name| Some((name.clone(), own_name(name)?)))
            .collect();
        let taken = renamed.into_iter().filter_map(|(name, own)| {
            let mut value = headers.remove(name)?;
            value.set_sensitive(true);
            Some((own, value))
        });
        taken.collect()
    }
}

/// Whether the outbound half drops a header of the configuration. `Authorization` is not among them: the token takes
/// its place.
pub fn is_dropped(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase().replace('_', "-");
    DROPPED.contains(&name.as_str())
        || DROPPED_PREFIXES
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_gateways_come_back_under_their_own_names_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let names = StaticHeaders::resume(folder.path());
        assert_eq!(names.overlay_name("X-Static"), None);
        assert_eq!(names.overlay_name("Authorization"), None);
        let key = names.overlay_name("X-API-Key").unwrap();
        let with_underscores = names.overlay_name("api_key").unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (key.as_str(), "of the gateway"),
            (with_underscores.as_str(), "2"),
            ("x-api-key", "of a client"),
            ("mcpauth-static-0-x-goog-api-key", "forged"),
        ] {
            headers.insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let mut taken = names.take(&mut headers);
        taken.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        let text = |(name, value): &(HeaderName, HeaderValue)| (name.to_string(), value.clone());
        assert_eq!(
            taken.iter().map(text).collect::<Vec<_>>(),
            [
                ("api_key".to_owned(), HeaderValue::from_static("2")),
                ("x-api-key".to_owned(), HeaderValue::from_static("of the gateway")),
            ]
        );
        assert_eq!(headers.len(), 2, "what is not ours is left where it is");
    }

    #[test]
    fn a_restart_of_the_sidecar_keeps_the_names_that_litellm_has_read() {
        let folder = tempfile::tempdir().unwrap();
        let before = StaticHeaders::resume(folder.path()).overlay_name("x-api-key");
        assert_eq!(
            StaticHeaders::resume(folder.path()).overlay_name("x-api-key"),
            before
        );
        std::fs::write(folder.path().join(FILE), "not a token").unwrap();
        assert_ne!(
            StaticHeaders::resume(folder.path()).overlay_name("x-api-key"),
            before
        );
    }
}
