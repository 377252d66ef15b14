//! The grant jwt-bearer: whose assertion it is, and what the operator states in one that it signs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{KeyRef, SignatureAlgorithm};

/// The grant jwt-bearer (RFC 7523 section 2.1): with the assertion of a Secret, or with one that the operator signs.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.assertionRef) != has(self.keyRef)",
        "exactly one of assertionRef and keyRef must be set"
    ),
    validation = (
        "has(self.keyRef) || !(has(self.keyId) || has(self.algorithm) || has(self.issuer) || has(self.subject) || \
         has(self.audience) || has(self.claims))",
        "keyId, algorithm, issuer, subject, audience and claims belong to keyRef: an assertion that is in a Secret \
         has its own"
    ),
    validation = (
        "!has(self.claims) || self.claims.all(k, !(k in ['iss', 'sub', 'aud', 'exp', 'nbf', 'iat', 'jti']))",
        "claims must not hold iss, sub, aud, exp, nbf, iat or jti: they are set by the operator, by issuer, subject \
         and audience"
    )
)]
pub struct JwtBearer {
    /// The assertion: a JWT that something else mints and renews. Taken over the moment it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion_ref: Option<KeyRef>,

    /// The private key that the operator signs assertions with: in PEM, as a JWK, or a service account's key file
    /// of Google Cloud or Zitadel as it was handed out, which says `keyId`, `issuer` and `subject` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ref: Option<KeyRef>,

    /// The `kid` header of the assertion. Default: that of the key file or the JWK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,

    /// The signature algorithm. Default: by the kind of key, RS256, ES256, ES384, ES512 or EdDSA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SignatureAlgorithm")]
    pub algorithm: Option<SignatureAlgorithm>,

    /// The `iss` claim. Default: that of the key file, else the client identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,

    /// The `sub` claim: whom the token is for, such as a user of Salesforce, or a user whom a Google service account
    /// stands in for. Default: that of the key file, else the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub subject: Option<String>,

    /// The `aud` claim. Default: the authorization server's issuer where it is known, else the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,

    /// Further claims. With a key file of Google, `scope` is set from `scopes` unless it is here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub claims: BTreeMap<String, String>,
}
