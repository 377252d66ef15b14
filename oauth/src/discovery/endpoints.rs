//! The endpoints of an authorization server: URLs that may be sent a secret.

use std::sync::Arc;

use url::Url;

use super::error::DiscoveryError;
use super::metadata::ServerMetadata;
use super::well_known;
use crate::error::Error;
use crate::jose::assertion::ServerNames;
use crate::registration::{Registration, ServerLocation};

/// The endpoints of one authorization server.
#[derive(Debug)]
pub(crate) struct Endpoints {
    token: Url,
    mtls_token: Option<Url>,
    revocation: Option<Url>,
    mtls_revocation: Option<Url>,
    /// What assertions are addressed to: the issuer where it is known, else the token endpoint, as it was
    /// written.
    audience: String,
    /// Where the server was discovered.
    metadata: Option<Arc<ServerMetadata>>,
}

impl Endpoints {
    /// Those that the registration states; `None` where the server is to be discovered.
    pub fn stated(registration: &Registration) -> Result<Option<Self>, Error> {
        let ServerLocation::Endpoints {
            token_url,
            revocation_url,
        } = &registration.server
        else {
            return Ok(None);
        };
        let allow_http = registration.allow_insecure_http;
        Ok(Some(Self {
            token: token_endpoint(token_url, allow_http)?,
            mtls_token: None,
            revocation: revocation_endpoint(revocation_url.as_deref(), allow_http)?,
            mtls_revocation: None,
            audience: token_url.clone(),
            metadata: None,
        }))
    }

    /// Those that a server's metadata name.
    pub fn discovered(metadata: Arc<ServerMetadata>, allow_http: bool) -> Result<Self, Error> {
        let read = |field, text: &str| {
            well_known::parse(text, allow_http)
                .map_err(|problem| DiscoveryError::unusable_endpoint(&metadata.issuer, field, problem))
        };
        let read_if_named =
            |field, text: &Option<String>| text.as_deref().map(|text| read(field, text)).transpose();
        Ok(Self {
            token: read("token_endpoint", &metadata.token_endpoint)?,
            mtls_token: read_if_named(
                "mtls_endpoint_aliases.token_endpoint",
                &metadata.mtls_token_endpoint,
            )?,
            revocation: read_if_named("revocation_endpoint", &metadata.revocation_endpoint)?,
            mtls_revocation: read_if_named(
                "mtls_endpoint_aliases.revocation_endpoint",
                &metadata.mtls_revocation_endpoint,
            )?,
            audience: metadata.issuer.clone(),
            metadata: Some(metadata),
        })
    }

    /// Where a client asks for tokens: one that shows a certificate at the alias for those (RFC 8705 section 5).
    pub fn token_for(&self, shows_certificate: bool) -> &Url {
        match &self.mtls_token {
            Some(alias) if shows_certificate => alias,
            _ => &self.token,
        }
    }

    /// Where it revokes tokens, if anywhere (RFC 8705 section 5).
    pub fn revocation_for(&self, shows_certificate: bool) -> Option<&Url> {
        match &self.mtls_revocation {
            Some(alias) if shows_certificate => Some(alias),
            _ => self.revocation.as_ref(),
        }
    }

    /// An error that names the field or the metadata which the token endpoint comes from.
    pub fn invalid_token_endpoint(&self, problem: &'static str) -> Error {
        match &self.metadata {
            Some(metadata) => {
                DiscoveryError::unusable_endpoint(&metadata.issuer, "token_endpoint", problem).into()
            }
            None => Error::InvalidUrl { problem },
        }
    }

    /// What assertions can be addressed to, as it was written.
    pub fn names(&self) -> ServerNames<'_> {
        ServerNames {
            issuer: &self.audience,
            token_endpoint: self
                .metadata
                .as_ref()
                .map_or(&*self.audience, |metadata| metadata.token_endpoint.as_str()),
        }
    }

    pub fn metadata(&self) -> Option<&Arc<ServerMetadata>> {
        self.metadata.as_ref()
    }

    /// Whether any of them is reached by TLS.
    pub fn is_encrypted(&self) -> bool {
        [
            Some(&self.token),
            self.mtls_token.as_ref(),
            self.revocation.as_ref(),
            self.mtls_revocation.as_ref(),
        ]
        .into_iter()
        .flatten()
        .any(|url| url.scheme() == "https")
    }
}

fn token_endpoint(text: &str, allow_http: bool) -> Result<Url, Error> {
    well_known::parse(text, allow_http).map_err(|problem| Error::InvalidUrl { problem })
}

fn revocation_endpoint(text: Option<&str>, allow_http: bool) -> Result<Option<Url>, Error> {
    text.map(|text| well_known::parse(text, allow_http))
        .transpose()
        .map_err(|problem| Error::InvalidRevocationUrl { problem })
}

#[cfg(test)]
mod tests {
    use oauth2::TokenUrl;

    use super::*;
    use crate::ClientAuthentication;

    fn stated(
        token_url: &str,
        revocation_url: Option<&str>,
        allow_insecure_http: bool,
    ) -> Result<Endpoints, Error> {
        let registration = Registration {
            server: ServerLocation::Endpoints {
                token_url: token_url.into(),
                revocation_url: revocation_url.map(Into::into),
            },
            allow_insecure_http,
            ..Registration::new("", "client", ClientAuthentication::None)
        };
        Endpoints::stated(&registration).map(Option::unwrap)
    }

    fn metadata() -> ServerMetadata {
        ServerMetadata {
            issuer: "https://as.example.com".into(),
            token_issuer: None,
            token_endpoint: TokenUrl::new("https://as.example.com/token".into()).unwrap(),
            mtls_token_endpoint: Some("https://mtls.as.example.com/token".into()),
            revocation_endpoint: Some("https://as.example.com/revoke".into()),
            mtls_revocation_endpoint: Some("https://mtls.as.example.com/revoke".into()),
            resource: None,
            scopes: Vec::new(),
            scope_origin: Default::default(),
            supported: Default::default(),
        }
    }

    #[test]
    fn plain_http_is_refused_unless_allowed() {
        let error = stated("http://auth.example.com/token", None, false).unwrap_err();
        assert!(
            error.message().contains("allowInsecureHttp"),
            "{}",
            error.message()
        );
        assert!(stated("http://auth.example.com/token", None, true).is_ok());
    }

    #[test]
    fn a_url_that_cannot_be_an_endpoint_is_refused_by_the_name_of_its_field() {
        for url in [
            "",
            "/token",
            "auth.example.com/token",
            "ftp://auth.example.com/token",
            "https://",
            "https://u:p@auth.example.com/token",
            "https://auth.example.com/token#x",
        ] {
            let token = stated(url, None, true).unwrap_err();
            assert_eq!(token.reason(), "InvalidUrl", "{url}");
            assert!(token.message().starts_with("tokenUrl "), "{url}");
            let revocation = stated("https://auth.example.com/token", Some(url), true).unwrap_err();
            assert_eq!(revocation.reason(), "InvalidRevocationUrl", "{url}");
            assert!(revocation.message().starts_with("revocationUrl "), "{url}");
        }
    }

    #[test]
    fn an_endpoint_that_metadata_name_and_that_is_unusable_is_told_as_theirs_and_not_as_a_field() {
        for (change, field) in [
            (
                ServerMetadata {
                    token_endpoint: TokenUrl::new("http://as.example.com/token".into()).unwrap(),
                    ..metadata()
                },
                " name a token_endpoint that ",
            ),
            (
                ServerMetadata {
                    mtls_revocation_endpoint: Some("ftp://as.example.com/revoke".into()),
                    ..metadata()
                },
                " name a mtls_endpoint_aliases.revocation_endpoint that ",
            ),
        ] {
            let error = Endpoints::discovered(Arc::new(change), false).unwrap_err();
            let message = error.message();
            assert_eq!(error.reason(), "InvalidUrl");
            assert!(
                message.starts_with("the metadata of https://as.example.com")
                    && message.contains(field)
                    && !message.contains("tokenUrl is"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_alias_is_for_clients_with_a_certificate_only() {
        let endpoints = Endpoints::discovered(Arc::new(metadata()), false).unwrap();
        assert_eq!(
            endpoints.token_for(true).as_str(),
            "https://mtls.as.example.com/token"
        );
        assert_eq!(
            endpoints.token_for(false).as_str(),
            "https://as.example.com/token"
        );
        let revocation = |shows_certificate| endpoints.revocation_for(shows_certificate).map(Url::as_str);
        assert_eq!(revocation(true), Some("https://mtls.as.example.com/revoke"));
        assert_eq!(revocation(false), Some("https://as.example.com/revoke"));
    }

    #[test]
    fn without_an_alias_a_client_with_a_certificate_asks_where_all_ask() {
        let metadata = ServerMetadata {
            mtls_token_endpoint: None,
            mtls_revocation_endpoint: None,
            ..metadata()
        };
        let endpoints = Endpoints::discovered(Arc::new(metadata), false).unwrap();
        assert_eq!(endpoints.token_for(true).as_str(), "https://as.example.com/token");
        assert_eq!(
            endpoints.revocation_for(true).map(Url::as_str),
            Some("https://as.example.com/revoke")
        );
    }

    #[test]
    fn assertions_are_addressed_to_the_issuer_where_it_is_known_else_to_the_token_endpoint_as_written() {
        let endpoints = Endpoints::discovered(Arc::new(metadata()), false).unwrap();
        assert_eq!(endpoints.names().issuer, "https://as.example.com");
        let endpoints = stated("https://AS.example.com:443", None, false).unwrap();
        assert_eq!(endpoints.names().issuer, "https://AS.example.com:443");
    }
}
