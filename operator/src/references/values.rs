//! The values of a Secret or ConfigMap.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use mcp_auth_credentials::references::Data;

pub trait Values {
    /// Whether its owner may have to agree that resources use it.
    const NEEDS_CONSENT: bool;

    fn values(self) -> Data;
}

impl Values for Secret {
    const NEEDS_CONSENT: bool = true;

    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0.into()))
            .collect()
    }
}

impl Values for ConfigMap {
    const NEEDS_CONSENT: bool = false;

    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes().into()))
            .collect()
    }
}
