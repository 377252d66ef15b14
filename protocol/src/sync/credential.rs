//! Credentials: what a sidecar authenticates to an MCP server with.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// What the sidecar authenticates to an MCP server with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Credential {
    /// `Authorization: Bearer` (RFC 6750), or `Authorization: DPoP` with a proof (RFC 9449) where there is a
    /// key.
    Bearer {
        /// Names this token in reports without telling it: random, never the same for two tokens.
        #[serde(default)]
        id: String,
        #[serde(serialize_with = "expose")]
        token: SecretString,
        /// PKCS#8 in PEM: the P-256 key that the token is bound to, and that proofs are signed with by ES256.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            serialize_with = "expose_some"
        )]
        proof_key: Option<SecretString>,
        /// Unix seconds; absent where the token says nothing of its life. Not used from then on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
    },
    /// There is none now. Requests are answered with an error that says why.
    Unavailable {
        /// Closed set, CamelCase: the reason of the resource's condition.
        reason: String,
        /// For people; never holds a secret.
        message: String,
        /// The operator does not know of any either, as after its own restart: one that the sidecar still has
        /// for the same URL serves on until it expires.
        #[serde(default)]
        keep: bool,
    },
}

/// Two credentials are equal if a sidecar would do the same with both.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Bearer {
                    id: a_id,
                    token: a,
                    proof_key: a_key,
                    expires_at: a_expires,
                },
                Self::Bearer {
                    id: b_id,
                    token: b,
                    proof_key: b_key,
                    expires_at: b_expires,
                },
            ) => {
                let text =
                    |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
                a.expose_secret() == b.expose_secret()
                    && (a_id, a_expires) == (b_id, b_expires)
                    && text(a_key) == text(b_key)
            }
            (
                Self::Unavailable {
                    reason: a,
                    message: a_message,
                    keep: a_keep,
                },
                Self::Unavailable {
                    reason: b,
                    message: b_message,
                    keep: b_keep,
                },
            ) => a == b && a_message == b_message && a_keep == b_keep,
            _ => false,
        }
    }
}

fn expose_some<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.expose_secret()),
        None => serializer.serialize_none(),
    }
}

pub(super) fn expose<S: serde::Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}
