//! Key sets: the public keys by which an issuer's tokens are verified (JWK Set, RFC 7517 section 5), fetched from
//! where the resource says or where the issuer's metadata say. Sends no secret and follows no redirect; what may be
//! asked is bounded by the [SSRF guard](crate::ssrf).

use http::header::ACCEPT;
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use url::Url;

use crate::destinations::Destinations;
use crate::discovery::well_known;
use crate::egress_proxy::EgressProxy;
use crate::issuer::is_same_issuer;
use crate::ssrf::AddressPolicy;
use crate::transport::{Transport, TransportRules};
use crate::{Error, Limits};

/// Keys that are kept of a set; issuers have a handful.
const MAX_KEYS: usize = 32;
/// Longest member of a key: the modulus of an RSA key of 16,384 bits.
const MAX_MEMBER_LEN: usize = 2731;
/// Key types that signatures are verified by. The symmetric one is a secret and no public key.
const PUBLIC_KEY_TYPES: [&str; 3] = ["RSA", "EC", "OKP"];

/// Where the keys of an issuer are, and how they are fetched.
#[derive(Clone, Debug)]
pub struct KeySetLocation {
    pub issuer: String,
    /// `jwks_uri`; `None`: the issuer's metadata name it.
    pub url: Option<String>,
    /// PEM certificates of authorities to trust besides the system's.
    pub ca_bundle: Option<String>,
    pub egress_proxy: Option<EgressProxy>,
    pub allow_insecure_http: bool,
    /// Whether a `jwks_uri` that the metadata name may be at a private address.
    pub allow_private_addresses: bool,
    /// Where requests may go whatever else is said here.
    pub destinations: Destinations,
}

/// A public key as it stands in a key set, without what is not needed to verify.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct PublicKey {
    pub kty: String,
    pub kid: Option<String>,
    pub alg: Option<String>,
    pub crv: Option<String>,
    pub n: Option<String>,
    pub e: Option<String>,
    pub x: Option<String>,
    pub y: Option<String>,
}

/// Why there are no keys.
#[derive(Debug, Error)]
pub enum KeySetError {
    #[error("{field} {problem}")]
    Url {
        field: &'static str,
        problem: &'static str,
    },
    #[error("the issuer has no metadata at {0} that name a jwks_uri and the issuer itself")]
    NoMetadata(String),
    #[error("{url} answers {status}")]
    Status { url: String, status: StatusCode },
    #[error("{0} is no JSON Web Key Set (RFC 7517) with a key that signatures can be verified by")]
    NotAKeySet(String),
    #[error(transparent)]
    Transport(#[from] Error),
}

impl KeySetLocation {
    /// Whether another location has the same keys and is trusted in the same way, by whatever proxy.
    pub fn is_same_set(&self, other: &Self) -> bool {
        (&self.issuer, &self.url, &self.ca_bundle) == (&other.issuer, &other.url, &other.ca_bundle)
            && self.allow_insecure_http == other.allow_insecure_http
            && self.allow_private_addresses == other.allow_private_addresses
            && self.destinations == other.destinations
    }

    /// The keys as they are now.
    pub async fn fetch(&self, limits: Limits) -> Result<Vec<PublicKey>, KeySetError> {
        let parse = |field, text: &str| {
            well_known::parse(text, self.allow_insecure_http)
                .map_err(|problem| KeySetError::Url { field, problem })
        };
        let (url, addresses) = match &self.url {
            Some(url) => (parse("jwks.url", url)?, AddressPolicy::Stated),
            None => {
                let issuer = parse("jwks.issuer", &self.issuer)?;
                let url = self.discover(&issuer, limits).await?;
                (
                    url,
                    AddressPolicy::discovered([&issuer], self.allow_private_addresses),
                )
            }
        };
        let (status, body) = self.get(&url, addresses, limits).await?;
        if status != StatusCode::OK {
            let url = without_query(&url);
            return Err(KeySetError::Status { url, status });
        }
        let keys = read_key_set(&body);
        match keys.is_empty() {
            true => Err(KeySetError::NotAKeySet(without_query(&url))),
            false => Ok(keys),
        }
    }

    /// `jwks_uri` of the issuer's metadata (RFC 8414 section 2).
    async fn discover(&self, issuer: &Url, limits: Limits) -> Result<Url, KeySetError> {
        let mut failed = None;
        for url in well_known::server_metadata(issuer) {
            let (status, body) = match self.get(&url, AddressPolicy::Stated, limits).await {
                Ok(answer) => answer,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            if status != StatusCode::OK {
                continue;
            }
            let Ok(metadata) = serde_json::from_slice::<Map<String, Value>>(&body) else {
                continue;
            };
            let text = |key: &str| metadata.get(key).and_then(Value::as_str);
            // Keeps one issuer from giving itself out as another (RFC 8414 section 3.3).
            if text("issuer").is_some_and(|stated| is_same_issuer(stated, &self.issuer))
                && let Some(jwks_uri) = text("jwks_uri")
            {
                return well_known::parse(jwks_uri, self.allow_insecure_http).map_err(|problem| {
                    KeySetError::Url {
                        field: "jwks_uri of the issuer's metadata",
                        problem,
                    }
                });
            }
        }
        Err(failed.unwrap_or_else(|| KeySetError::NoMetadata(without_query(issuer))))
    }

    async fn get(
        &self,
        url: &Url,
        addresses: AddressPolicy,
        limits: Limits,
    ) -> Result<(StatusCode, Vec<u8>), KeySetError> {
        let rules = TransportRules {
            allow_http: self.allow_insecure_http,
            encrypted: url.scheme() == "https",
            addresses,
            destinations: self.destinations.clone(),
            egress_proxy: self.egress_proxy.clone(),
        };
        let transport = Transport::new(rules, self.ca_bundle.as_deref(), None, limits)?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .header(ACCEPT, "application/json, application/jwk-set+json")
            .body(Vec::new())
            .map_err(|_| KeySetError::Url {
                field: "jwks.url",
                problem: "cannot be requested",
            })?;
        let answer = transport.send(request).await?;
        Ok((answer.status, answer.body))
    }
}

/// The keys that signatures can be verified by. What else a set holds is left out, since sets may hold more than
/// their reader knows (RFC 7517 section 5).
pub fn read_key_set(body: &[u8]) -> Vec<PublicKey> {
    let Ok(set) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return Vec::new();
    };
    let keys = set.get("keys").and_then(Value::as_array);
    let is_for_signatures = |key: &&Value| key.get("use").is_none_or(|usage| usage == "sig");
    let is_bounded = |key: &PublicKey| {
        let members = [&key.kid, &key.alg, &key.crv, &key.n, &key.e, &key.x, &key.y];
        members
            .into_iter()
            .flatten()
            .all(|member| member.len() <= MAX_MEMBER_LEN)
    };
    keys.into_iter()
        .flatten()
        .filter(is_for_signatures)
        .filter_map(|key| PublicKey::deserialize(key).ok())
        .filter(|key| PUBLIC_KEY_TYPES.contains(&key.kty.as_str()) && is_bounded(key))
        .take(MAX_KEYS)
        .collect()
}

fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers by path until the test ends; its URL.
    async fn server(answers: impl Fn(&str, &str) -> String + Send + 'static) -> String {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let own = url.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8(request).unwrap();
                let body = answers(text.split(' ').nth(1).unwrap(), &own);
                let status = if body.is_empty() {
                    "404 Not Found"
                } else {
                    "200 OK"
                };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                stream
                    .write_all(format!("{head}{body}").as_bytes())
                    .await
                    .unwrap();
            }
        });
        url
    }

    fn location(issuer: &str, url: Option<String>) -> KeySetLocation {
        KeySetLocation {
            issuer: issuer.into(),
            url,
            ca_bundle: None,
            egress_proxy: None,
            allow_insecure_http: true,
            allow_private_addresses: false,
            destinations: Destinations::default(),
        }
    }

    const KEYS: &str = r#"{"keys": [
        {"kty": "EC", "kid": "1", "use": "sig", "crv": "P-256", "x": "eA", "y": "eQ"},
        {"kty": "RSA", "use": "enc", "n": "bg", "e": "AQAB"},
        {"kty": "oct", "k": "s3cret"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "cA"},
        7
    ]}"#;

    #[tokio::test]
    async fn keys_are_found_by_the_issuers_metadata_and_only_public_ones_for_signatures_are_kept() {
        let url = server(|path, own| match path {
            "/.well-known/openid-configuration" => {
                format!(r#"{{"issuer": "{own}", "jwks_uri": "{own}/keys"}}"#)
            }
            "/keys" => KEYS.into(),
            _ => String::new(),
        })
        .await;
        let keys = location(&url, None).fetch(Limits::default()).await.unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].kty.as_str(), keys[0].kid.as_deref()), ("EC", Some("1")));
    }

    #[tokio::test]
    async fn metadata_of_another_issuer_lead_nowhere() {
        let url = server(|path, own| match path {
            "/keys" => KEYS.into(),
            _ => format!(r#"{{"issuer": "https://evil.example.com", "jwks_uri": "{own}/keys"}}"#),
        })
        .await;
        let error = location(&url, None).fetch(Limits::default()).await.unwrap_err();
        assert!(matches!(error, KeySetError::NoMetadata(_)), "{error}");
    }

    #[tokio::test]
    async fn a_jwks_uri_of_the_metadata_does_not_lead_into_private_networks() {
        let url = server(|_, own| {
            // The same server by another name than the one that the resource states.
            let other = own.replace("127.0.0.1", "127.0.0.2");
            format!(r#"{{"issuer": "{own}", "jwks_uri": "{other}/keys"}}"#)
        })
        .await;
        let error = location(&url, None).fetch(Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("private"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_key_set_is_said_with_its_url_and_without_its_query() {
        let url = server(|path, _| match path.starts_with("/none") {
            true => r#"{"keys": [{"kty": "oct", "k": "s3cret"}]}"#.into(),
            false => String::new(),
        })
        .await;
        let fetch = async |path: &str| {
            let location = location(&url, Some(format!("{url}{path}")));
            location.fetch(Limits::default()).await.unwrap_err().to_string()
        };
        let none = fetch("/none?key=s3cret").await;
        assert!(
            none.contains("/none is no JSON Web Key Set") && !none.contains("s3cret"),
            "{none}"
        );
        assert!(fetch("/gone").await.contains("answers 404"));
        let plain = KeySetLocation {
            allow_insecure_http: false,
            ..location(&url, Some(url.clone()))
        };
        let error = plain.fetch(Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("plain http"), "{error}");
    }
}
