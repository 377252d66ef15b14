//! The `McpServerAuth` resource of `mcpauth.dev/v1alpha1`: one MCP server that LiteLLM calls, and how LiteLLM
//! authenticates to it. The YAML beside this crate, for `kubectl apply -f crds/`, is generated from these
//! types (`make generate`).

#[cfg(feature = "admission")]
pub mod admission;
mod audit;
mod client_authentication;
pub mod conditions;
mod github_app;
mod jwt_bearer;
mod litellm;
mod oauth2;
pub mod reasons;
mod reference;
mod spec;
mod status;
mod token_exchange;

pub use audit::*;
pub use client_authentication::*;
pub use github_app::*;
pub use jwt_bearer::*;
pub use litellm::*;
pub use oauth2::*;
pub use spec::*;
pub use status::*;
pub use token_exchange::*;

/// Where the generated YAML lies, seen from this crate: for `kubectl apply -f crds/`, and for the chart,
/// which installs it as a template so that it is upgraded too.
pub const COPIES: [&str; 2] = [
    "mcpserverauths.yaml",
    "../charts/mcp-auth/files/mcpserverauths.yaml",
];

/// The CustomResourceDefinition as YAML.
pub fn crd_yaml() -> String {
    use kube::CustomResourceExt;
    let crd = serde_json::to_value(McpServerAuth::crd()).expect("the definition is made of plain values");
    serde_saphyr::to_string(&crd).expect("plain values are YAML")
}

/// Where the page with all fields lies, seen from this crate.
pub const REFERENCE: &str = "../docs/reference/mcpserverauth.md";

/// All fields of the resource as a Markdown page.
pub fn reference_page() -> String {
    reference::page(&schema())
}

/// The OpenAPI schema of the resource.
fn schema() -> serde_json::Value {
    use kube::CustomResourceExt;
    let mut crd = serde_json::to_value(McpServerAuth::crd()).expect("the definition is made of plain values");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_generated_from_these_types() {
        let written = std::fs::read_to_string(format!("{}/{REFERENCE}", env!("CARGO_MANIFEST_DIR")))
            .unwrap_or_default();
        assert!(
            written == reference_page(),
            "docs/reference is stale: run `make generate`"
        );
    }

    #[test]
    fn kubectl_explain_has_a_text_for_every_field() {
        assert_eq!(reference::undescribed(&schema()), Vec::<String>::new());
    }

    #[test]
    fn the_yaml_is_generated_from_these_types() {
        for path in COPIES {
            let written =
                std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default();
            assert!(written == crd_yaml(), "crds/{path} is stale: run `make generate`");
        }
    }
}
