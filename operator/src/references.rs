//! The Secrets and ConfigMaps that resources refer to. Each is watched by its name, and no other object of
//! the cluster is read: [`mcp_auth_credentials::references::needed`] says which a spec refers to, [`watch`]
//! keeps them.

mod watch;

pub use watch::{EXPIRES_AT, References, SecretsGrant};
