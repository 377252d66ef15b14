//! Namespace index: all resources that there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;

/// By namespace and name, since all that is decided is decided for a namespace.
pub type NamespaceIndex = HashMap<String, BTreeMap<String, Arc<McpServerAuth>>>;
