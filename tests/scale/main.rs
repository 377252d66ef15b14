//! What many sidecars cost the operator: two replicas as processes, a real API server, pods without a kubelet, and
//! sidecars that are connections of this process with the bound tokens of their pods. `make scale` runs it, and writes
//! what it measured into docs/scale.md.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod api_server;
mod objects;
mod phases;
mod results;
mod sidecars;
mod silent;
mod sizes;
mod token_endpoint;

use mcp_auth_tests::setting;

use crate::sizes::Sizes;

#[tokio::main]
async fn main() {
    let sizes = Sizes::from_environment();
    let results = phases::run(&sizes).await;
    std::fs::write(
        setting("MCPAUTH_TEST_SCALE"),
        serde_json::to_vec_pretty(&results).unwrap(),
    )
    .unwrap();
}

/// Tells whoever waits what is going on.
pub fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "scale: {text}");
}
