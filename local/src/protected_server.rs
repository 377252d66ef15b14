//! One MCP server that is authenticated to: its resource, and the values that the resource refers to.

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::references::{Data, Lookup, Reference, needed};
use mcp_auth_credentials::{AdministratorPolicy, Desired, Inputs, NotServedError, desired};
use mcp_auth_oauth::{Assertions, EgressProxy};
use secrecy::ExposeSecret;

#[derive(Clone, Debug)]
pub struct ProtectedServer {
    pub resource: McpServerAuth,
    /// Each as it was found when the resource was read.
    references: Vec<(Reference, Lookup)>,
}

impl ProtectedServer {
    /// `find` looks up the object that a reference names.
    pub fn new(resource: McpServerAuth, find: impl Fn(&Reference) -> Lookup) -> Self {
        let references = needed(&resource.spec).into_iter();
        let references = references.map(|reference| (find(&reference), reference));
        Self {
            references: references
                .map(|(lookup, reference)| (reference, lookup))
                .collect(),
            resource,
        }
    }

    /// LiteLLM's key of the server.
    pub fn name(&self) -> &str {
        &self.resource.spec.server.name
    }

    /// The token source that the server desires.
    pub fn desired(&self, egress_proxy: Option<EgressProxy>) -> Result<Desired, NotServedError> {
        desired(
            &self.resource.spec,
            &Inputs {
                references: &self.references,
                workload: |_| None::<Result<Assertions, NotServedError>>,
                known_issuer: None,
                policy: &AdministratorPolicy::default(),
                egress_proxy,
            },
        )
    }
}

/// Two are equal if the same comes of them.
impl PartialEq for ProtectedServer {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.references.iter().zip(&other.references);
        self.resource == other.resource
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
