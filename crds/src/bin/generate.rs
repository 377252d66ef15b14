//! Writes the CustomResourceDefinition to the places that it is installed from: `make generate`.

fn main() -> std::io::Result<()> {
    for path in mcp_auth_crds::COPIES {
        std::fs::write(
            format!("{}/{path}", env!("CARGO_MANIFEST_DIR")),
            mcp_auth_crds::crd_yaml(),
        )?;
    }
    Ok(())
}
