//! Writes the CustomResourceDefinition beside this crate: `make generate`.

fn main() -> std::io::Result<()> {
    std::fs::write(
        concat!(env!("CARGO_MANIFEST_DIR"), "/mcpserverauths.yaml"),
        mcp_auth_crds::crd_yaml(),
    )
}
