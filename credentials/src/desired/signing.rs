//! What the operator signs assertions with and what it states in them, from the spec and the keys that it names.

use std::sync::Arc;

use mcp_auth_crds::{JwtBearer, OAuth2, PrivateKeyJwt, SignatureAlgorithm, WorkloadIdentity};
use mcp_auth_oauth::{Algorithm, AssertionSigner, Assertions, ServiceAccountKey, SigningKey};
use secrecy::ExposeSecret;

use super::{Inputs, client_id, invalid, unset};
use crate::effective::EffectiveSettings;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::{Reference, fields};

/// The fields that a client's key may be named by.
pub struct KeyFields {
    pub key: &'static str,
    pub certificate: &'static str,
    pub key_of_certificate: &'static str,
}

/// Of the client of the authorization server.
pub const CLIENT_KEY: KeyFields = KeyFields {
    key: fields::PRIVATE_KEY,
    certificate: fields::PRIVATE_KEY_CERTIFICATE,
    key_of_certificate: fields::PRIVATE_KEY_OF_CERTIFICATE,
};

/// Of the client of the identity provider.
pub const IDENTITY_PROVIDER_KEY: KeyFields = KeyFields {
    key: fields::IDENTITY_PROVIDER_KEY,
    certificate: fields::IDENTITY_PROVIDER_KEY_CERTIFICATE,
    key_of_certificate: fields::IDENTITY_PROVIDER_KEY_OF_CERTIFICATE,
};

/// The key of a client that authenticates by assertions, announced by its certificate where it has one.
pub fn client_key<W>(
    jwt: &PrivateKeyJwt,
    named_by: &KeyFields,
    inputs: &Inputs<'_, W>,
) -> Result<SigningKey, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    if jwt.managed.is_some() {
        return managed_key(inputs);
    }
    let algorithm = jwt.algorithm.map(algorithm);
    let certified = inputs.pair(named_by.certificate, named_by.key_of_certificate)?;
    if let Some(pair) = certified {
        return SigningKey::parse(pair.key.expose_secret(), algorithm, jwt.key_id.clone())
            .and_then(|key| key.with_certificate(&pair.chain))
            .map_err(|error| invalid_key(inputs, named_by.key_of_certificate, &error.message()));
    }
    let text = inputs.text(named_by.key)?;
    let text = text.ok_or_else(|| unset(named_by.key))?;
    SigningKey::parse(text.expose_secret(), algorithm, jwt.key_id.clone())
        .map_err(|error| invalid_key(inputs, named_by.key, &error.message()))
}

/// The key that the operator makes.
fn managed_key<W>(inputs: &Inputs<'_, W>) -> Result<SigningKey, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    match &inputs.managed_key {
        Some(Ok(managed)) => Ok(managed.key.clone()),
        Some(Err(error)) => Err(error.clone()),
        None => Err(invalid(format!(
            "{} needs the operator in a cluster, which publishes the key: use keyRef",
            fields::MANAGED_KEY
        ))),
    }
}

/// Assertions that are the grant itself.
pub fn grant_assertions<W>(
    oauth2: &OAuth2,
    grant: &JwtBearer,
    effective: &EffectiveSettings,
    inputs: &Inputs<'_, W>,
) -> Result<Assertions, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let text = inputs.text(fields::GRANT_KEY)?;
    let text = text.ok_or_else(|| unset(fields::GRANT_KEY))?;
    let file = ServiceAccountKey::read(text.expose_secret());
    let key_text = file.as_ref().map_or(&text, |file| &file.private_key);
    let key_id = grant
        .key_id
        .clone()
        .or(file.as_ref().map(|file| file.key_id.clone()));
    let key = SigningKey::parse(key_text.expose_secret(), grant.algorithm.map(algorithm), key_id)
        .map_err(|error| invalid_key(inputs, fields::GRANT_KEY, &error.message()))?;

    let account = || file.as_ref().map(|file| file.account.clone());
    let issuer = match grant.issuer.clone().or_else(account) {
        Some(issuer) => Some(issuer),
        None => client_id(oauth2, inputs)?,
    };
    let issuer = issuer.ok_or_else(|| {
        invalid(
            "spec.oauth2.jwtBearer.issuer is not set, and neither the key nor clientId says who signs: set one \
             of them"
                .into(),
        )
    })?;
    let mut claims = grant.claims.clone();
    if file.as_ref().is_some_and(|file| file.scope_is_claim) && !effective.scopes.is_empty() {
        claims
            .entry("scope".into())
            .or_insert_with(|| effective.scopes.join(" "));
    }
    Ok(Assertions::Signed(Arc::new(AssertionSigner {
        key,
        subject: grant
            .subject
            .clone()
            .or_else(account)
            .unwrap_or_else(|| issuer.clone()),
        issuer,
        audience: effective.grant_assertion_audience.clone(),
        claims,
    })))
}

fn algorithm(algorithm: SignatureAlgorithm) -> Algorithm {
    match algorithm {
        SignatureAlgorithm::Rs256 => Algorithm::Rs256,
        SignatureAlgorithm::Ps256 => Algorithm::Ps256,
        SignatureAlgorithm::Es256 => Algorithm::Es256,
        SignatureAlgorithm::Es384 => Algorithm::Es384,
        SignatureAlgorithm::Es512 => Algorithm::Es512,
        SignatureAlgorithm::EdDsa => Algorithm::EdDsa,
    }
}

pub fn invalid_key<W>(inputs: &Inputs<'_, W>, field: &str, problem: &str) -> NotServedError
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let reference = inputs.find(field).map(|(reference, _)| reference);
    let message = format!("{}: {problem}", describe_reference(reference));
    NotServedError::new(NotServedReason::SecretInvalid, message)
}

/// A key of a Secret, as a message begins with it.
fn describe_reference(reference: Option<&Reference>) -> String {
    match reference {
        Some(Reference { field, name, key, .. }) => {
            format!("key {key:?} of Secret {name}, named by {field}")
        }
        None => String::new(),
    }
}
