//! The `server_id` LiteLLM gives a server of its configuration. Keys and teams are granted servers by this
//! id, and it is a hash over the URL among others: with the URL of the sidecar in its place, every grant
//! would silently stop matching. So the id of the *original* entry is computed here and pinned.
//!
//! `MCPServerManager._generate_stable_server_id` in `litellm/proxy/mcp_server/mcp_server_manager.py`
//! (1.109.1; the same in 1.80.17 under `litellm/proxy/_experimental/mcp_server/`):
//!
//! ```text
//! sha256(f"{server_name}|{url}|{transport}|{auth_type or ''}|{alias or ''}").hexdigest()[:32]
//! ```

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// What LiteLLM writes into the hash for an entry without `transport`. The default is a member of `class
/// MCPTransport(str, Enum)`, and from Python 3.11 on an f-string renders such a member by its qualified name.
/// LiteLLM's images run 3.13. Under Python 3.10 it would be `http`.
const DEFAULT_TRANSPORT: &str = "MCPTransport.http";

/// What the id is computed from, with LiteLLM's defaults in place of what is absent.
#[derive(Clone, Copy, Debug)]
pub struct ServerIdInputs<'a> {
    pub name: &'a str,
    /// Empty if absent.
    pub url: &'a str,
    pub transport: Option<&'a str>,
    pub auth_type: Option<&'a str>,
    /// The entry's own, or else the first of `litellm_settings.mcp_aliases` that names this server.
    pub alias: Option<&'a str>,
}

impl ServerIdInputs<'_> {
    pub fn server_id(&self) -> String {
        let transport = self.transport.unwrap_or(DEFAULT_TRANSPORT);
        let auth_type = self.auth_type.unwrap_or_default();
        let alias = self.alias.unwrap_or_default();
        let hash = Sha256::digest(format!(
            "{}|{}|{transport}|{auth_type}|{alias}",
            self.name, self.url
        ));
        hash.iter()
            .take(16)
            .fold(String::with_capacity(32), |mut id, byte| {
                write!(id, "{byte:02x}").expect("a String takes whatever is written to it");
                id
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with LiteLLM 1.109.1's own function under Python 3.13.
    #[test]
    fn equals_what_litellm_computes() {
        let bare = ServerIdInputs {
            name: "tools",
            url: "https://tools.example.com/mcp",
            transport: None,
            auth_type: None,
            alias: None,
        };
        assert_eq!(bare.server_id(), "c0bdeff783bd0730697de850ae917fa6");
        let full = ServerIdInputs {
            transport: Some("sse"),
            auth_type: Some("oauth2"),
            alias: Some("t"),
            ..bare
        };
        assert_eq!(full.server_id(), "388e8462029edd7363ada727f5e1dbdf");
    }
}
