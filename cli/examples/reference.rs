//! Prints the reference for `docs/cli.md`; `make generate` puts it there.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(mcp_auth_cli::reference::markdown().as_bytes())
}
