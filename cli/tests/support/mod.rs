//! What the tests of the program stand on.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::path::{Path, PathBuf};

/// A kubeconfig in this folder, whose only cluster has these settings.
pub fn kubeconfig(folder: &Path, cluster: &str) -> PathBuf {
    let path = folder.join("config");
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: here
clusters: [{{name: c, cluster: {{{cluster}}}}}]
users: [{{name: u, user: {{token: unused}}}}]
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
"
    );
    std::fs::write(&path, text).unwrap();
    path
}
