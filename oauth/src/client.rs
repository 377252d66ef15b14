//! One token request: grant client_credentials (RFC 6749 section 4.4) with `resource` (RFC 8707).

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RequestTokenError, Scope, StandardRevocableToken, TokenUrl,
};
use reqwest::header;
use secrecy::{ExposeSecret, SecretString};

use crate::Error;
use crate::answer::{Answer, Token};
use crate::error::clean;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the whole request. A slower server is as good as none: callers have given up by then.
const DEADLINE: Duration = Duration::from_secs(10);
/// No token is longer.
const MAX_ANSWER: usize = 1024 * 1024;
/// Longest time a server may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// This client as it is registered at the authorization server.
#[derive(Clone, Debug)]
pub struct Registration {
    pub token_url: String,
    pub client_id: String,
    pub authentication: ClientAuthentication,
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    pub extra_parameters: BTreeMap<String, String>,
    /// PEM certificates to trust besides the platform's.
    pub ca_bundle: Option<String>,
}

/// How the client authenticates at the token endpoint.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// `client_secret_basic`: in the Authorization header, id and secret form-urlencoded first (RFC 6749
    /// section 2.3.1).
    SecretBasic(SecretString),
    /// `client_secret_post`: in the body.
    SecretPost(SecretString),
}

impl ClientAuthentication {
    fn secret(&self) -> &SecretString {
        match self {
            Self::SecretBasic(secret) | Self::SecretPost(secret) => secret,
        }
    }

    fn auth_type(&self) -> AuthType {
        match self {
            Self::SecretBasic(_) => AuthType::BasicAuth,
            Self::SecretPost(_) => AuthType::RequestBody,
        }
    }
}

/// Whatever answers a token request: [`Client`], and in tests a script.
pub trait TokenEndpoint: Send + Sync + 'static {
    /// Asks for a token; its life counts from `now`.
    fn request(&self, now: SystemTime) -> impl Future<Output = Result<Token, Error>> + Send;
}

type Inner = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

pub struct Client {
    registration: Registration,
    oauth2: Inner,
    http: reqwest::Client,
}

impl Client {
    pub fn new(registration: Registration) -> Result<Self, Error> {
        let token_url = TokenUrl::new(registration.token_url.clone());
        let token_url = token_url.map_err(|error| Error::InvalidUrl(error.to_string()))?;
        let secret = registration.authentication.secret().expose_secret().to_owned();
        let oauth2 = oauth2::Client::new(ClientId::new(registration.client_id.clone()))
            .set_client_secret(ClientSecret::new(secret))
            .set_auth_type(registration.authentication.auth_type())
            .set_token_uri(token_url);
        let http = http_client(registration.ca_bundle.as_deref())?;
        Ok(Self {
            registration,
            oauth2,
            http,
        })
    }
}

impl TokenEndpoint for Client {
    async fn request(&self, now: SystemTime) -> Result<Token, Error> {
        let Registration {
            scopes,
            audience,
            resource,
            extra_parameters,
            ..
        } = &self.registration;
        let mut request = self.oauth2.exchange_client_credentials();
        request = request.add_scopes(scopes.iter().map(|scope| Scope::new(scope.clone())));
        if let Some(audience) = audience {
            request = request.add_extra_param("audience", audience);
        }
        if let Some(resource) = resource {
            request = request.add_extra_param("resource", resource);
        }
        for (name, value) in extra_parameters {
            request = request.add_extra_param(name, value);
        }
        // The future that oauth2 wants may not borrow from the closure.
        let http = self.http.clone();
        let send = move |request: HttpRequest| {
            let http = http.clone();
            async move { send(http, request).await }
        };
        match request.request_async(&send).await {
            Ok(answer) => answer.token(now),
            Err(error) => Err(self.explain(error)),
        }
    }
}

impl Client {
    fn explain(&self, error: RequestTokenError<Error, BasicErrorResponse>) -> Error {
        let secrets = [self.registration.authentication.secret().expose_secret()];
        match error {
            RequestTokenError::Request(error) => error,
            RequestTokenError::ServerResponse(response) => Error::Refused {
                code: clean(response.error().as_ref(), &secrets),
                description: response.error_description().map(|text| clean(text, &secrets)),
            },
            // The parser's words can hold values of the body; its path and position cannot.
            RequestTokenError::Parse(error, body) => Error::Malformed(format!(
                "not the JSON of a token or an error, at {} (line {}, column {}, of {} bytes)",
                clean(&error.path().to_string(), &secrets),
                error.inner().line(),
                error.inner().column(),
                body.len()
            )),
            RequestTokenError::Other(_) => {
                Error::Malformed("it is empty or of another content type".to_owned())
            }
        }
    }
}

fn http_client(ca_bundle: Option<&str>) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mcp-auth/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = ca_bundle {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
        let certificates = certificates.map_err(|error| Error::InvalidCaBundle(root_cause(&error)))?;
        if certificates.is_empty() {
            return Err(Error::InvalidCaBundle("it holds no PEM certificate".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder
        .build()
        .map_err(|error| Error::InvalidCaBundle(root_cause(&error)))
}

/// Sends a request of `oauth2`, and passes on only what that crate can read.
async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, Error> {
    let (head, body) = request.into_parts();
    let request = http
        .request(head.method, head.uri.to_string())
        .headers(head.headers)
        .body(body);
    let mut response = request.send().await.map_err(|error| transport_error(&error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(Error::Redirect);
    }
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let is_json = content_type.is_none_or(|value| value.to_ascii_lowercase().contains("json"));
    // An OAuth error is JSON, on 400 or 401; a gateway's 5xx may be anything.
    if status.is_server_error() || status.as_u16() == 429 || (!is_json && !status.is_success()) {
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| parse_retry_after(value, SystemTime::now()));
        return Err(Error::Status {
            status: status.as_u16(),
            retry_after,
        });
    }
    if !is_json {
        let content_type = clean(content_type.unwrap_or_default(), &[]);
        return Err(Error::NotJson {
            status: status.as_u16(),
            content_type,
        });
    }
    let mut collected = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(&error))? {
        if collected.len() + chunk.len() > MAX_ANSWER {
            return Err(Error::TooLarge(MAX_ANSWER));
        }
        collected.extend_from_slice(&chunk);
    }
    let mut answer = HttpResponse::new(collected);
    *answer.status_mut() = if status.is_success() {
        http::StatusCode::OK
    } else {
        status
    };
    Ok(answer)
}

/// Seconds or an HTTP date (RFC 9110 section 10.2.3).
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value.trim())
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

fn transport_error(error: &reqwest::Error) -> Error {
    let cause = root_cause(error);
    let mentions =
        |word: &str| chain(error).any(|cause| cause.to_string().to_ascii_lowercase().contains(word));
    if error.is_timeout() {
        Error::Timeout(DEADLINE)
    } else if mentions("certificate") || mentions("tls") {
        Error::Tls(cause)
    } else if mentions("dns") {
        Error::Dns(cause)
    } else {
        Error::Connect(cause)
    }
}

/// The innermost cause says what happened; reqwest's own words are about which URL.
fn root_cause(error: &reqwest::Error) -> String {
    clean(
        &chain(error)
            .last()
            .map_or(String::new(), |cause| cause.to_string()),
        &[],
    )
}

fn chain<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| {
        cause.source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = httpdate::parse_http_date("Mon, 23 Nov 2026 12:00:00 GMT").unwrap();
        let read = |value: &str| parse_retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(read("30"), Some(30));
        assert_eq!(read("Mon, 23 Nov 2026 12:01:00 GMT"), Some(60));
        assert_eq!(read("Mon, 23 Nov 2026 11:00:00 GMT"), Some(0));
        assert_eq!(read("86400"), Some(600));
        assert_eq!(read("soon"), None);
    }
}
