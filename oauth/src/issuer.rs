//! Issuers: whether two spellings of an issuer identifier are the same.

/// Whether two spellings name one issuer: byte for byte (RFC 8414 section 3.3), but for a slash that is all
/// there is of a path. With it and without it a URL is the same (RFC 3986 section 6.2.3), and issuers and
/// those that name them often differ in it.
pub(crate) fn is_same_issuer(one: &str, other: &str) -> bool {
    let without_slash = |issuer: &str| -> Option<String> {
        let bare = issuer.strip_suffix('/').unwrap_or(issuer);
        let (_, authority) = bare.split_once("://")?;
        (!authority.contains(['/', '?', '#'])).then(|| bare.to_owned())
    };
    one == other || without_slash(one).is_some_and(|one| without_slash(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
