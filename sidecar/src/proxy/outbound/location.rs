//! Rewrites a URL that an MCP server names into one at the outbound listener.

use url::Url;

use crate::proxy::routes::UsableServer;

/// `/{server}` and the path that `reference` means relative to `requested`, path and query of the request.
/// `None` if it means another origin: LiteLLM would go there around the sidecar.
///
/// The same host by plain `http` counts as the same origin: servers behind something that ends TLS often say
/// so, and only the path is used.
pub fn rewrite_location(
    name: &str,
    server: &UsableServer,
    requested: &str,
    reference: &str,
) -> Option<String> {
    let base = server.url.join(requested).ok()?;
    let resolved = base.join(reference).ok()?;
    let is_same_origin = resolved.origin() == server.url.origin() || is_downgrade(&server.url, &resolved);
    let has_no_userinfo = resolved.username().is_empty() && resolved.password().is_none();
    (is_same_origin && has_no_userinfo).then(|| {
        format!(
            "/{name}{}",
            &resolved[url::Position::BeforePath..url::Position::AfterQuery]
        )
    })
}

fn is_downgrade(server: &Url, resolved: &Url) -> bool {
    server.scheme() == "https"
        && resolved.scheme() == "http"
        && server.host() == resolved.host()
        && (resolved.port() == server.port() || resolved.port() == Some(443))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::outbound::tests::usable;
    use mcp_auth_protocol::sync::Transport;

    fn rewritten(reference: &str) -> Option<String> {
        usable(
            "https://tools.example.com/a/mcp",
            Transport::StreamableHttp,
            |server| rewrite_location("tools", server, "/a/mcp?x=1", reference),
        )
    }

    #[test]
    fn every_way_to_name_the_same_origin_leads_through_us() {
        for (reference, expected) in [
            ("/a/mcp/", "/tools/a/mcp/"),
            ("mcp/?y=2", "/tools/a/mcp/?y=2"),
            ("?y=2", "/tools/a/mcp?y=2"),
            ("https://tools.example.com:443/b#f", "/tools/b"),
            ("//TOOLS.example.com/b", "/tools/b"),
            ("http://tools.example.com/a/mcp/", "/tools/a/mcp/"),
            ("../../../x", "/tools/x"),
        ] {
            assert_eq!(rewritten(reference).as_deref(), Some(expected), "{reference}");
        }
    }

    #[test]
    fn another_origin_is_none() {
        for reference in [
            "https://evil.example.com/a/mcp",
            "//evil.example.com/",
            "https://tools.example.com:8443/",
            "http://tools.example.com:8080/",
            "https://tools.example.com@evil.example.com/",
            "https://u:p@tools.example.com/",
            "javascript:alert(1)",
            "\\\\evil.example.com\\x",
            "http://",
        ] {
            assert_eq!(rewritten(reference), None, "{reference}");
        }
    }
}
