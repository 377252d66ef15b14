//! Well-known URLs: where metadata are to be found, made of an issuer or of a resource.

use url::Url;

/// Longest URL that is requested.
const MAX_LEN: usize = 2048;

/// A URL that may be asked: https, or http where that is allowed. Otherwise what is wrong with it.
pub(crate) fn parse(text: &str, allow_insecure_http: bool) -> Result<Url, &'static str> {
    if text.len() > MAX_LEN {
        return Err("is too long");
    }
    let url = Url::parse(text).map_err(|_| "is not an absolute URL")?;
    match url.scheme() {
        "https" => {}
        "http" if allow_insecure_http => {}
        "http" => {
            return Err(
                "is plain http, which would show secrets to everyone on the way, and allowInsecureHttp is \
                 not set",
            );
        }
        _ => return Err("is neither an https nor an http URL"),
    }
    if url.fragment().is_some() {
        return Err("has a fragment");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password");
    }
    // The two crates that read the URL from here on do not agree on everything.
    if url.as_str().parse::<http::Uri>().is_err() {
        return Err("cannot be requested");
    }
    Ok(url)
}

/// Addresses of an issuer's metadata in the order of the MCP specification: as RFC 8414 section 3.1 says, as
/// that says for OpenID documents (section 5), and as OpenID Connect Discovery 1.0 section 4 says.
pub(crate) fn server_metadata(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let mut urls = vec![
        with_path(issuer, &format!("/.well-known/oauth-authorization-server{path}")),
        with_path(issuer, &format!("/.well-known/openid-configuration{path}")),
        with_path(issuer, &format!("{path}/.well-known/openid-configuration")),
    ];
    // Without a path the last two are one.
    urls.dedup();
    urls
}

/// Addresses of a resource's metadata (RFC 9728 section 3.1), and then of those of its whole origin.
pub(crate) fn resource_metadata(resource: &Url) -> Vec<Url> {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let path = resource.path().trim_end_matches('/');
    let mut own = with_path(resource, &format!("{WELL_KNOWN}{path}"));
    own.set_query(resource.query());
    let mut urls = vec![own, with_path(resource, WELL_KNOWN)];
    urls.dedup();
    urls
}

/// This path at the origin of `url`.
pub(crate) fn with_path(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    url.set_path(path);
    url.set_query(None);
    url
}

/// Scheme, host and port, as an issuer at the root is written: without a slash at the end.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Whether two spellings name one issuer: byte for byte (RFC 8414 section 3.3), but for a slash that is all there
/// is of a path. With it and without it a URL is the same (RFC 3986 section 6.2.3), and issuers and those that name
/// them often differ in it.
pub(crate) fn is_same_issuer(one: &str, other: &str) -> bool {
    let without_slash = |issuer: &str| -> Option<String> {
        let bare = issuer.strip_suffix('/').unwrap_or(issuer);
        let (_, authority) = bare.split_once("://")?;
        (!authority.contains(['/', '?', '#'])).then(|| bare.to_owned())
    };
    one == other || without_slash(one).is_some_and(|one| without_slash(other) == Some(one))
}

/// Whether `server` is the resource or part of it: at the same origin, at its path or below.
///
/// RFC 9728 section 3.3 wants the two to be identical. MCP servers name the whole origin or a path above the
/// endpoint too, and these belong to them no less: the owner of an origin owns the paths in it.
pub(crate) fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else {
        return false;
    };
    let above = resource.path().trim_end_matches('/');
    let below = server.path().trim_end_matches('/');
    let is_below = below
        .strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.origin() == server.origin()
        && is_below
        && resource.fragment().is_none()
        && (resource.query().is_none() || resource.query() == server.query())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn texts(urls: Vec<Url>) -> Vec<String> {
        urls.into_iter().map(String::from).collect()
    }

    #[test]
    fn metadata_of_an_issuer_with_a_path_are_at_three_places() {
        for issuer in ["https://a.example.com/x/y", "https://a.example.com/x/y/"] {
            assert_eq!(
                texts(server_metadata(&url(issuer))),
                [
                    "https://a.example.com/.well-known/oauth-authorization-server/x/y",
                    "https://a.example.com/.well-known/openid-configuration/x/y",
                    "https://a.example.com/x/y/.well-known/openid-configuration",
                ]
            );
        }
    }

    #[test]
    fn metadata_of_an_issuer_without_a_path_are_at_two_places() {
        assert_eq!(
            texts(server_metadata(&url("https://a.example.com:8443"))),
            [
                "https://a.example.com:8443/.well-known/oauth-authorization-server",
                "https://a.example.com:8443/.well-known/openid-configuration",
            ]
        );
    }

    #[test]
    fn metadata_of_a_resource_are_its_own_and_then_its_origin_s() {
        assert_eq!(
            texts(resource_metadata(&url("https://t.example.com/mcp?a=b"))),
            [
                "https://t.example.com/.well-known/oauth-protected-resource/mcp?a=b",
                "https://t.example.com/.well-known/oauth-protected-resource",
            ]
        );
        assert_eq!(resource_metadata(&url("https://t.example.com/")).len(), 1);
    }

    #[test]
    fn an_issuer_is_the_same_with_and_without_a_slash_where_it_has_no_path() {
        for (one, other, is_same) in [
            ("https://a.example.com", "https://a.example.com/", true),
            ("https://a.example.com:8443/", "https://a.example.com:8443", true),
            ("https://a.example.com/x", "https://a.example.com/x", true),
            ("https://a.example.com/x", "https://a.example.com/x/", false),
            ("https://a.example.com", "https://a.example.com//", false),
            ("https://a.example.com", "https://A.example.com/", false),
            ("https://a.example.com", "http://a.example.com/", false),
            (
                "https://a.example.com",
                "https://a.example.com.evil.example.com/",
                false,
            ),
            ("urn:a", "urn:a/", false),
            ("", "/", false),
        ] {
            assert_eq!(is_same_issuer(one, other), is_same, "{one} {other}");
            assert_eq!(is_same_issuer(other, one), is_same, "{other} {one}");
        }
    }

    #[test]
    fn a_resource_covers_itself_and_what_is_below() {
        let server = url("https://t.example.com/team/mcp");
        for resource in [
            "https://t.example.com/team/mcp",
            "https://t.example.com/team/mcp/",
            "https://T.example.com:443/team",
            "https://t.example.com/",
            "https://t.example.com",
        ] {
            assert!(covers(resource, &server), "{resource}");
        }
        for resource in [
            "",
            "team/mcp",
            "https://evil.example.com/team/mcp",
            "http://t.example.com/team/mcp",
            "https://t.example.com:8443/team/mcp",
            "https://t.example.com/tea",
            "https://t.example.com/team/mcp/more",
            "https://t.example.com/team/mcp?x",
            "https://t.example.com/team/mcp#x",
            "https://t.example.com@evil.example.com/team/mcp",
        ] {
            assert!(!covers(resource, &server), "{resource}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for text in [
            "",
            "/x",
            "a.example.com",
            "ftp://a.example.com",
            "https://",
            "https://u:p@a.example.com",
            "https://a.example.com#x",
            "http://a.example.com",
            &format!("https://a.example.com/{}", "x".repeat(MAX_LEN)),
        ] {
            assert!(parse(text, false).is_err(), "{text}");
        }
        assert!(parse("http://a.example.com", true).is_ok());
        assert!(parse("https://a.example.com/x?y", false).is_ok());
    }
}
