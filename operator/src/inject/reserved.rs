//! Names and paths in a pod that are reserved for injection: a pod that uses one for itself is not injected.

use mcp_auth_protocol::pod::{CONFIG_FOLDER, IDENTITY_FOLDER};

/// Folder of the file of audit lines in the sidecar, where a volume of the pod's is mounted.
pub(super) const AUDIT_FOLDER: &str = "/var/run/mcpauth/audit";
/// Name of the sidecar's container.
pub const SIDECAR: &str = "mcpauth-sidecar";
/// The volume of the configuration overlay, which the sidecar writes and LiteLLM reads.
pub(super) const CONFIG_VOLUME: &str = "mcpauth-config";
/// The volume of the sidecar's ServiceAccount token and of the wrapper.
pub(super) const TOKEN_VOLUME: &str = "mcpauth-identity";
/// The empty volume that lies where the pod's API token would be mounted into the sidecar.
pub(super) const EMPTY_VOLUME: &str = "mcpauth-none";
/// The volume that takes the place of the user's where a whole folder is mounted.
pub(super) const FOLDER_VOLUME: &str = "mcpauth-folder";
/// The wrapper's name in the volume that also holds the token.
pub(super) const WRAPPER_ITEM: &str = "wrapper.yaml";
/// The wrapper's name beside LiteLLM's own configuration file.
pub(super) const WRAPPER_FILE: &str = "mcpauth-wrapper.yaml";
/// Path of the wrapper when it cannot be beside LiteLLM's own configuration file.
pub(super) const WRAPPER_ELSEWHERE: &str = "/var/run/mcpauth/wrapper.yaml";

/// Whether injection may add a volume of this name.
pub(super) fn is_reserved_volume(name: &str) -> bool {
    [CONFIG_VOLUME, EMPTY_VOLUME, TOKEN_VOLUME, FOLDER_VOLUME].contains(&name)
}

/// Whether injection mounts something below this path, also where `/var/run` is another name of `/run`.
pub(super) fn is_above_reserved_paths(path: &str) -> bool {
    ["", "/run", "/var", "/var/run", "/var/run/mcpauth", "/run/mcpauth"].contains(&path.trim_end_matches('/'))
}

/// Whether injection may mount something at this path.
pub(super) fn is_reserved_path(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    [AUDIT_FOLDER, CONFIG_FOLDER, IDENTITY_FOLDER, WRAPPER_ELSEWHERE].contains(&path)
        || path.ends_with(&format!("/{WRAPPER_FILE}"))
}
