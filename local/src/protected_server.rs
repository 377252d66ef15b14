//! One MCP server that is authenticated to: its resource, and the values that the resource refers to.

use std::path::PathBuf;

use jiff::Timestamp;
use mcp_auth_crds::{McpServerAuth, WorkloadIdentity};
use mcp_auth_credentials::conditions::ConditionDraft;
use mcp_auth_credentials::credential_expiry::{
    CredentialExpiry, FoundReference, credential_expiring, expiries,
};
use mcp_auth_credentials::references::{Data, Lookup, Reference, needed};
use mcp_auth_credentials::{AdministratorPolicy, Desired, Inputs, NotServedError, desired};
use mcp_auth_oauth::{Assertions, EgressProxy};
use secrecy::ExposeSecret;

#[derive(Clone, Debug)]
pub struct ProtectedServer {
    pub resource: McpServerAuth,
    /// The file that the resource is from; none where it is of LiteLLM's configuration.
    pub file: Option<PathBuf>,
    /// Each as it was found when the resource was read.
    references: Vec<(Reference, Lookup)>,
    /// What of these ends.
    expiries: Vec<CredentialExpiry>,
}

impl ProtectedServer {
    /// `find` looks up the object that a reference names.
    pub fn new(resource: McpServerAuth, find: impl Fn(&Reference) -> Lookup) -> Self {
        let references = needed(&resource.spec).into_iter();
        let references = references.map(|reference| (find(&reference), reference));
        let server = Self {
            references: references
                .map(|(lookup, reference)| (reference, lookup))
                .collect(),
            expiries: Vec::new(),
            file: None,
            resource,
        };
        server.with_stated_ends(|_| None)
    }

    /// `stated_end` is when the object that a reference names says that what it holds ends, in RFC 3339.
    pub fn with_stated_ends(mut self, stated_end: impl Fn(&Reference) -> Option<String>) -> Self {
        let found = self.references.iter().map(|(reference, lookup)| FoundReference {
            reference: reference.clone(),
            lookup: lookup.clone(),
            stated_end: stated_end(reference),
        });
        self.expiries = expiries(&found.collect::<Vec<_>>());
        self
    }

    /// What it refers to that ends, and when.
    pub fn expiries(&self) -> &[CredentialExpiry] {
        &self.expiries
    }

    /// The condition `CredentialExpiring`; none where nothing ends soon.
    pub fn credential_expiring(&self, now: Timestamp) -> Option<ConditionDraft> {
        credential_expiring(&self.expiries, now)
    }

    /// LiteLLM's key of the server.
    pub fn name(&self) -> &str {
        &self.resource.spec.server.name
    }

    pub fn resource_name(&self) -> &str {
        self.resource.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn is_same_resource(&self, other: &Self) -> bool {
        self.resource_name() == other.resource_name()
    }

    /// The first reference whose object is not there.
    pub fn missing(&self) -> Option<&Reference> {
        let mut missing = self.references.iter();
        missing
            .find(|(_, lookup)| matches!(lookup, Lookup::NotFound))
            .map(|(reference, _)| reference)
    }

    /// Whether all that the resource refers to is there.
    pub fn is_usable(&self) -> bool {
        self.desired(None).is_ok()
    }

    /// The token source that the server desires.
    pub fn desired(&self, egress_proxy: Option<EgressProxy>) -> Result<Desired, NotServedError> {
        desired(
            &self.resource.spec,
            &Inputs {
                references: &self.references,
                workload: |_: &WorkloadIdentity| None::<Result<Assertions, NotServedError>>,
                managed_key: None,
                known_issuer: None,
                policy: &AdministratorPolicy::default(),
                egress_proxy,
            },
        )
    }
}

/// The resource that an entry of `mcp_servers` becomes. No name of Kubernetes has `_`, so that none of the resources
/// is called the same.
pub fn entry_resource_name(server: &str) -> String {
    format!("mcp_servers.{server}")
}

/// Two are equal if the same comes of them.
impl PartialEq for ProtectedServer {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.references.iter().zip(&other.references);
        self.resource == other.resource
            && self.expiries == other.expiries
            && self.references.len() == other.references.len()
            && pairs.all(|((reference, lookup), (other, lookup_of_other))| {
                reference == other && is_same(lookup, lookup_of_other)
            })
    }
}

fn is_same(lookup: &Lookup, other: &Lookup) -> bool {
    let exposed = |data: &Data| -> Vec<(String, Vec<u8>)> {
        data.iter()
            .map(|(key, value)| (key.clone(), value.expose_secret().to_vec()))
            .collect()
    };
    match (lookup, other) {
        (Lookup::Found(data), Lookup::Found(other)) => exposed(data) == exposed(other),
        (Lookup::NotFound, Lookup::NotFound) => true,
        _ => false,
    }
}
