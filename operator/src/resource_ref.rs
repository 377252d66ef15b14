//! Resource reference: namespace and name of a resource.

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use mcp_auth_crds::McpServerAuth;

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ResourceRef {
    pub namespace: String,
    pub name: String,
}

impl From<&McpServerAuth> for ResourceRef {
    fn from(resource: &McpServerAuth) -> Self {
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
        }
    }
}

impl From<&ResourceRef> for ObjectRef<McpServerAuth> {
    fn from(resource_ref: &ResourceRef) -> Self {
        ObjectRef::new(&resource_ref.name).within(&resource_ref.namespace)
    }
}
