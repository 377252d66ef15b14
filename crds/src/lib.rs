//! The `McpServerAuth` resource of `mcpauth.dev/v1alpha1`: one MCP server that LiteLLM calls, and how LiteLLM
//! authenticates to it. The YAML beside this crate, for `kubectl apply -f crds/`, is generated from these types
//! (`make generate`).

pub mod conditions;
pub mod reasons;
mod spec;
mod status;

pub use spec::*;
pub use status::*;

/// Label on a namespace: its LiteLLM pods get the sidecar.
pub const INJECTION_LABEL: &str = "mcpauth.dev/injection";
/// Value of [`INJECTION_LABEL`] that opts in.
pub const INJECTION_ENABLED: &str = "enabled";

/// The CustomResourceDefinition as YAML.
pub fn crd_yaml() -> String {
    use kube::CustomResourceExt;
    let crd = serde_json::to_value(McpServerAuth::crd()).expect("the definition is made of plain values");
    serde_saphyr::to_string(&crd).expect("plain values are YAML")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_yaml_beside_this_crate_is_generated_from_its_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/mcpserverauths.yaml");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == super::crd_yaml(),
            "crds/mcpserverauths.yaml is stale: run `make generate`"
        );
    }
}
