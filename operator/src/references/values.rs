//! The values of a Secret or ConfigMap.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use mcp_auth_credentials::references::Data;

pub trait Values {
    fn values(self) -> Data;
}

impl Values for Secret {
    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0.into()))
            .collect()
    }
}

impl Values for ConfigMap {
    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes().into()))
            .collect()
    }
}
