//! Writes what is generated from the types of the resource: `make generate`.

fn main() -> std::io::Result<()> {
    let write =
        |path: &str, text: &str| std::fs::write(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")), text);
    for path in mcp_auth_crds::COPIES {
        write(path, &mcp_auth_crds::crd_yaml())?;
    }
    write(mcp_auth_crds::REFERENCE, &mcp_auth_crds::reference_page())
}
