//! What tells the series of one metric apart.

use mcp_auth_credentials::ResourceRef;
use prometheus_client::encoding::EncodeLabelSet;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct OutcomeLabels {
    pub(super) outcome: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ResourceLabels {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl From<&ResourceRef> for ResourceLabels {
    fn from(resource_ref: &ResourceRef) -> Self {
        Self {
            namespace: resource_ref.namespace.clone(),
            name: resource_ref.name.clone(),
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct PodLabels {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct CertificateLabels {
    pub(super) certificate: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct CredentialLabels {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) credential: &'static str,
}

impl CredentialLabels {
    pub(super) fn new(resource_ref: &ResourceRef, credential: &'static str) -> Self {
        Self {
            namespace: resource_ref.namespace.clone(),
            name: resource_ref.name.clone(),
            credential,
        }
    }
}

impl PodLabels {
    pub(super) fn new(resource_ref: &ResourceRef, reason: &'static str) -> Self {
        let ResourceRef { namespace, name } = resource_ref.clone();
        Self {
            namespace,
            name,
            reason,
        }
    }
}
