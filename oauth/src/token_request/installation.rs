//! Requests for installation access tokens of a GitHub App: from the app's key to the request that issues a token, and from its
//! answer to the token. GitHub's own, and no OAuth2
//! (<https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>).

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use crate::error::installation::{InstallationError, InstallationProblem};
use crate::jose::assertion;
use crate::redact::Redactor;
use crate::token_request::endpoint_client::EndpointClient;
use crate::token_request::form;
use crate::token_request::response::{self, TokenEndpointResponse};
use crate::transport::Answer;
use crate::transport::body_shape::BodyShape;
use crate::{Error, GitHubApp, RetryAfter};

/// How far back the JWT says that it was issued, as GitHub advises for clocks that differ, and how long it is good for
/// from now on: GitHub takes none that ends more than ten minutes ahead.
const BACKDATED_SECONDS: i64 = 60;
const LIFETIME_SECONDS: i64 = 9 * 60;

/// How long to wait where GitHub refuses for too many requests and does not say until when: at least a minute, by its
/// documentation of secondary rate limits.
const RATE_LIMIT_PAUSE: std::time::Duration = std::time::Duration::from_secs(60);

/// Characters repeated of GitHub's words.
const MAX_MESSAGE_CHARS: usize = 200;

/// One request for an installation access token. No `Debug`: it holds the app's JWT.
pub(crate) struct InstallationTokenRequest {
    jwt: SecretString,
    body: Vec<u8>,
    now: Timestamp,
}

impl InstallationTokenRequest {
    pub fn new(app: &GitHubApp, now: Timestamp) -> Result<Self, Error> {
        let seconds = now.as_second();
        // Numbers, as servers of GitHub Enterprise demand of `iss`.
        let claims = json!({
            "iss": app.app_id,
            "iat": seconds.saturating_sub(BACKDATED_SECONDS),
            "exp": seconds.saturating_add(LIFETIME_SECONDS),
        });
        let mut body = Map::new();
        if !app.repositories.is_empty() {
            body.insert("repositories".into(), json!(app.repositories));
        }
        if !app.permissions.is_empty() {
            body.insert("permissions".into(), json!(app.permissions));
        }
        Ok(Self {
            jwt: assertion::sign_claims(&app.key, &claims)?,
            body: Value::Object(body).to_string().into_bytes(),
            now,
        })
    }

    /// Keeps back what the request holds.
    pub fn redact(&self, redactor: Redactor) -> Redactor {
        redactor.hide(self.jwt.expose_secret())
    }

    /// Sends it and reads the answer.
    pub async fn send_to(
        &self,
        endpoint: &Url,
        client: &EndpointClient<'_>,
    ) -> Result<TokenEndpointResponse, Error> {
        let answer = client.transport.send(self.build(endpoint)?).await?;
        *client.server_time.lock() = answer.date;
        read(answer, client.redactor, self.now)
    }

    fn build(&self, endpoint: &Url) -> Result<Request<Vec<u8>>, Error> {
        let bearer = format!("Bearer {}", self.jwt.expose_secret());
        let mut bearer = HeaderValue::from_str(&bearer).map_err(form::unbuilt)?;
        bearer.set_sensitive(true);
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.as_str().parse().map_err(form::unbuilt)?;
        request.headers_mut().extend([
            (ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (AUTHORIZATION, bearer),
            (
                HeaderName::from_static("x-github-api-version"),
                HeaderValue::from_static("2022-11-28"),
            ),
        ]);
        Ok(request)
    }
}

/// The token in the terms of a token endpoint: `expires_at` is the seconds that are left, and the permissions are the
/// scope. They are counted from the time of GitHub's answer where it has one, so that this clock does not matter.
fn read(answer: Answer, redactor: &Redactor, now: Timestamp) -> Result<TokenEndpointResponse, Error> {
    if answer.status.is_redirection() {
        return Err(response::redirected(answer, redactor));
    }
    let fields = match serde_json::from_slice(&answer.body) {
        Ok(Value::Object(fields)) => fields,
        _ if !answer.status.is_success() => return Err(refusal(&answer, None, redactor)),
        other => {
            return Err(Error::NotJson {
                shape: BodyShape::classify(&answer.body, other.is_ok()),
                content_type: None,
            });
        }
    };
    if !answer.status.is_success() {
        let message = fields.get("message").and_then(Value::as_str);
        return Err(refusal(&answer, message, redactor));
    }
    let mut issued = Map::new();
    if let Some(token) = fields.get("token") {
        issued.insert("access_token".into(), token.clone());
    }
    let end = fields.get("expires_at").and_then(Value::as_str);
    if let Some(end) = end.and_then(|end| end.parse::<Timestamp>().ok()) {
        let left = end.as_second() - answer.date.unwrap_or(now).as_second();
        issued.insert("expires_in".into(), left.into());
    }
    if let Some(permissions) = fields.get("permissions").and_then(Value::as_object) {
        let granted = permissions.iter().filter_map(|(name, access)| {
            let access = access.as_str()?;
            Some(format!("{name}:{access}"))
        });
        let granted: Vec<_> = granted.collect();
        issued.insert("scope".into(), granted.join(" ").into());
    }
    TokenEndpointResponse::try_from(issued).map_err(|problem| Error::NoInstallationToken { problem })
}

/// Statuses and messages as GitHub documents and sends them.
fn refusal(answer: &Answer, message: Option<&str>, redactor: &Redactor) -> Error {
    let status = answer.status.as_u16();
    let says = |part: &str| message.is_some_and(|message| message.to_ascii_lowercase().contains(part));
    let mut retry_after = answer.retry_after;
    let problem = match status {
        403 | 429 if retry_after.is_some() || status == 429 || says("rate limit") => {
            retry_after = retry_after.or(Some(RetryAfter::Delay(RATE_LIMIT_PAUSE)));
            InstallationProblem::RateLimited
        }
        401 => InstallationProblem::KeyRefused,
        403 if says("suspended") => InstallationProblem::Suspended,
        404 => InstallationProblem::NotFound,
        422 => InstallationProblem::NotGranted,
        400..=499 => InstallationProblem::Refused,
        _ => return response::http_status(answer),
    };
    Error::Installation(InstallationError {
        problem,
        status,
        message: message.and_then(|message| redactor.redact(message, MAX_MESSAGE_CHARS)),
        retry_after,
    })
}
