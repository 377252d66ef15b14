//! What a spec refers to.

use mcp_auth_crds::{CaBundle, KeyRef, McpServerAuthSpec};

/// A key of an object in the resource's namespace, and the field that names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    pub field: &'static str,
    pub kind: Kind,
    pub name: String,
    pub key: String,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    Secret,
    ConfigMap,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

impl Reference {
    fn secret(field: &'static str, reference: &KeyRef) -> Self {
        Self {
            field,
            kind: Kind::Secret,
            name: reference.name.clone(),
            key: reference.key.clone(),
        }
    }

    fn ca_bundle(field: &'static str, bundle: &CaBundle) -> Option<Self> {
        if let Some(reference) = &bundle.secret_key_ref {
            return Some(Self::secret(field, reference));
        }
        let reference = bundle.config_map_key_ref.as_ref()?;
        Some(Self {
            field,
            kind: Kind::ConfigMap,
            name: reference.name.clone(),
            key: reference.key.clone(),
        })
    }
}

/// Field names of the references that reconcile reads.
pub mod fields {
    pub const SERVER_CA: &str = "spec.server.tls.caBundle";
    pub const TOKEN_ENDPOINT_CA: &str = "spec.oauth2.caBundle";
    pub const CLIENT_ID: &str = "spec.oauth2.clientIdSecretRef";
    pub const CLIENT_SECRET: &str = "spec.oauth2.clientAuthentication.clientSecretRef";
    pub const BEARER_TOKEN: &str = "spec.bearerToken.secretKeyRef";
}

/// Every reference of a spec, in the order of its fields. What belongs to features that are not built yet is
/// not listed: nobody would read it.
pub fn needed(spec: &McpServerAuthSpec) -> Vec<Reference> {
    let mut references = Vec::new();
    let server_ca = spec.server.tls.as_ref().and_then(|tls| tls.ca_bundle.as_ref());
    references.extend(server_ca.and_then(|bundle| Reference::ca_bundle(fields::SERVER_CA, bundle)));
    if let Some(oauth2) = &spec.oauth2 {
        let ca = oauth2.ca_bundle.as_ref();
        references.extend(ca.and_then(|bundle| Reference::ca_bundle(fields::TOKEN_ENDPOINT_CA, bundle)));
        let id = oauth2.client_id_secret_ref.as_ref();
        references.extend(id.map(|id| Reference::secret(fields::CLIENT_ID, id)));
        let secret = oauth2.client_authentication.client_secret_ref.as_ref();
        references.extend(secret.map(|secret| Reference::secret(fields::CLIENT_SECRET, secret)));
    }
    let bearer = spec.bearer_token.as_ref();
    references.extend(bearer.map(|bearer| Reference::secret(fields::BEARER_TOKEN, &bearer.secret_key_ref)));
    references
}
