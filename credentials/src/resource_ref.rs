//! Resource reference: namespace and name of a resource.

use mcp_auth_crds::McpServerAuth;

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ResourceRef {
    pub namespace: String,
    pub name: String,
}

impl From<&McpServerAuth> for ResourceRef {
    fn from(resource: &McpServerAuth) -> Self {
        Self {
            namespace: resource.metadata.namespace.clone().unwrap_or_default(),
            name: resource.metadata.name.clone().unwrap_or_default(),
        }
    }
}
