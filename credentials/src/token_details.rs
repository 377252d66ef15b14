//! Token details: what a credential does not say of its token, on its way to another replica of the operator, which goes
//! on with it.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_http_auth::{ProofKey, ProofKeyError};
use mcp_auth_oauth::{AccessToken, ClaimMismatchError, ReportedClaims, ServerMetadata, Token, TokenType};
use mcp_auth_protocol::sync::Credential;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::credential_identity::RequestDigest;
use crate::token_seed::TokenSeed;

/// Times are Unix milliseconds.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenDetails {
    issued_at: i64,
    expires_at: Option<i64>,
    #[serde(default)]
    is_dpop: bool,
    #[serde(default)]
    is_certificate_bound: bool,
    #[serde(default)]
    is_by_alternate_secret: bool,
    mismatch: Option<ClaimMismatchError>,
    #[serde(default)]
    claims: Option<ReportedClaims>,
    server: Option<ServerMetadata>,
    scope: Option<String>,
    request_digest: Option<RequestDigest>,
    next_attempt_at: Option<i64>,
}

/// Why a replicated credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicatedCredentialError {
    #[error(transparent)]
    ProofKey(#[from] ProofKeyError),
    #[error("a time is out of range")]
    Time(#[from] jiff::Error),
}

impl From<&TokenSeed> for TokenDetails {
    fn from(seed: &TokenSeed) -> Self {
        let token = &seed.token;
        Self {
            issued_at: token.issued_at.as_millisecond(),
            expires_at: token.expires_at.map(Timestamp::as_millisecond),
            is_dpop: token.token_type == TokenType::DPoP,
            is_certificate_bound: token.certificate_bound,
            is_by_alternate_secret: token.by_alternate_secret,
            mismatch: token.mismatch.clone(),
            claims: token.claims.as_deref().cloned(),
            server: token.server.as_deref().cloned(),
            scope: token.scope.clone(),
            request_digest: seed.request_digest,
            next_attempt_at: seed.next_attempt_at.map(Timestamp::as_millisecond),
        }
    }
}

impl TokenDetails {
    /// Nothing where there is no token.
    pub fn seed(self, credential: &Credential) -> Result<Option<TokenSeed>, ReplicatedCredentialError> {
        let Credential::Bearer {
            id, token, proof_key, ..
        } = credential
        else {
            return Ok(None);
        };
        let proof_key = proof_key
            .as_ref()
            .map(|pem| ProofKey::from_pem(pem.expose_secret()));
        let time = |milliseconds: Option<i64>| milliseconds.map(Timestamp::from_millisecond).transpose();
        let token = Token {
            id: id.clone(),
            access_token: AccessToken::new(token.expose_secret().to_owned()),
            token_type: match self.is_dpop {
                true => TokenType::DPoP,
                false => TokenType::Bearer,
            },
            proof_key: proof_key.transpose()?.map(Arc::new),
            by_alternate_secret: self.is_by_alternate_secret,
            certificate_bound: self.is_certificate_bound,
            mismatch: self.mismatch,
            claims: self.claims.map(Arc::new),
            server: self.server.map(Arc::new),
            issued_at: Timestamp::from_millisecond(self.issued_at)?,
            expires_at: time(self.expires_at)?,
            scope: self.scope,
        };
        Ok(Some(TokenSeed {
            token: Arc::new(token),
            request_digest: self.request_digest,
            next_attempt_at: time(self.next_attempt_at)?,
        }))
    }
}
