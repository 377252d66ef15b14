//! The URL that the outside reaches published keys by, as the administrator states it.

use std::str::FromStr;

use reqwest::Url;
use thiserror::Error;

/// http or https, without user, query and fragment; paths are put behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl(Url);

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PublicUrlError {
    #[error("it is no absolute URL, such as https://keys.company.com/mcp-auth")]
    NoUrl,
    #[error("its scheme is neither https nor http")]
    Scheme,
    #[error("it holds a user or a password, which it would publish")]
    Credentials,
    #[error("it has a query or a fragment, behind which no path can be put")]
    QueryOrFragment,
}

impl PublicUrl {
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// `path` begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }

    /// Its own path, without the slash at the end: empty where it has none.
    pub fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let url = Url::parse(text).map_err(|_| PublicUrlError::NoUrl)?;
        if !url.has_host() {
            return Err(PublicUrlError::NoUrl);
        }
        if !matches!(url.scheme(), "https" | "http") {
            return Err(PublicUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PublicUrlError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(PublicUrlError::QueryOrFragment);
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_behind_the_url_with_one_slash() {
        for (url, path, joined) in [
            (
                "https://keys.company.com",
                "",
                "https://keys.company.com/clients/a",
            ),
            (
                "https://keys.company.com/",
                "",
                "https://keys.company.com/clients/a",
            ),
            (
                "https://company.com/mcp/",
                "/mcp",
                "https://company.com/mcp/clients/a",
            ),
        ] {
            let url: PublicUrl = url.parse().unwrap();
            assert_eq!((url.path(), url.join("/clients/a").as_str()), (path, joined));
        }
    }

    #[test]
    fn what_cannot_be_published_is_refused_by_name() {
        for (text, error) in [
            ("keys.company.com", PublicUrlError::NoUrl),
            ("ftp://keys.company.com", PublicUrlError::Scheme),
            ("https://u:p@keys.company.com", PublicUrlError::Credentials),
            ("https://keys.company.com/?a=b", PublicUrlError::QueryOrFragment),
            ("https://keys.company.com/#a", PublicUrlError::QueryOrFragment),
        ] {
            assert_eq!(text.parse::<PublicUrl>().unwrap_err(), error, "{text}");
        }
    }
}
