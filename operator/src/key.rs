//! The name of a resource.

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use mcp_auth_crds::McpServerAuth;

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl From<&McpServerAuth> for Key {
    fn from(resource: &McpServerAuth) -> Self {
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
        }
    }
}

impl From<&Key> for ObjectRef<McpServerAuth> {
    fn from(key: &Key) -> Self {
        ObjectRef::new(&key.name).within(&key.namespace)
    }
}
