//! Replicated credential: a [`CredentialState`] on its way from the replica of the operator that leads to one that
//! follows, which serves sidecars by it and goes on with its token when it leads itself.

use mcp_auth_protocol::sync::{ClientCertificate, Credential, DeclinedRefresh, EgressProxy, VerificationKey};
use serde::{Deserialize, Serialize};

use crate::credential_identity::CredentialIdentity;
use crate::shared_bundle::shared_bundle;
use crate::store::{CredentialState, Issuance, ServerConnection};
use crate::token_details::{ReplicatedCredentialError, TokenDetails};

/// No `Debug`: it holds the token.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedCredential {
    credential_identity: String,
    /// Of the resource. Absent of older replicas, and of a resource that is in no cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_uid: Option<String>,
    credential: Credential,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_bundle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate: Option<ClientCertificate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress_proxy: Option<EgressProxy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    declined: Option<DeclinedRefresh>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    audit_keys: Vec<VerificationKey>,
    /// What `credential` does not say of its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TokenDetails>,
}

impl From<&CredentialState> for ReplicatedCredential {
    fn from(state: &CredentialState) -> Self {
        Self {
            credential_identity: state.credential_identity.request().to_owned(),
            resource_uid: state.credential_identity.resource_uid().map(str::to_owned),
            credential: state.credential.clone(),
            ca_bundle: state.connection.ca_bundle.as_deref().map(str::to_owned),
            client_certificate: state.connection.client_certificate.clone(),
            egress_proxy: state.connection.egress_proxy.clone(),
            declined: state.declined.clone(),
            audit_keys: state.audit_keys.to_vec(),
            token: state.seed.as_ref().map(TokenDetails::from),
        }
    }
}

impl ReplicatedCredential {
    /// The state as a follower publishes it. It says nothing for the status, which the leader alone writes, and
    /// exchanges no users' tokens.
    pub fn into_state(self) -> Result<CredentialState, ReplicatedCredentialError> {
        let details = self.token;
        let seed = details
            .map(|details| details.seed(&self.credential))
            .transpose()?;
        Ok(CredentialState {
            credential_identity: CredentialIdentity::from_parts(self.credential_identity, self.resource_uid),
            generation: None,
            credential: self.credential,
            connection: ServerConnection {
                ca_bundle: self.ca_bundle.as_deref().map(shared_bundle),
                client_certificate: self.client_certificate,
                egress_proxy: self.egress_proxy,
            },
            audit_keys: self.audit_keys.into(),
            declined: self.declined,
            exchanger: None,
            issuance: Issuance::default(),
            seed: seed.flatten(),
        })
    }
}
