//! The token exchange for a user: one request and its answer.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::credential::{Credential, expose};
use super::report::Pod;

/// Path of the token exchange for a user: a `POST` of [`ExchangeRequest`], authenticated like the stream,
/// answered by [`ExchangeResponse`], or by a [`Problem`] with another status than 200.
pub const EXCHANGE_PATH: &str = "/v1/exchange";

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeRequest {
    /// Must be the pod the token is bound to.
    pub pod: Pod,
    /// [`Route::server`].
    pub server: String,
    /// [`Route::url`]: a token for any other URL is of no use to the sidecar.
    pub url: String,
    #[serde(serialize_with = "expose")]
    pub subject_token: SecretString,
    /// The user's token that the MCP server rejected, if that is why another one is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The user's own token.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeResponse {
    /// Always [`Credential::Bearer`].
    pub credential: Credential,
    /// The sender's time in Unix seconds, by which the ends of tokens are to be understood: the reader's clock may differ.
    /// Absent from older senders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<i64>,
}
