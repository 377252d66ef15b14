//! What must hold for all untrusted input of the data path: each function takes any bytes and panics where a
//! promise is broken. A fuzzer looks for such bytes (`make fuzz`), and an ordinary test repeats those that
//! once mattered, from `fuzz/corpus`.
//!
//! Each compares with a plain implementation of its own, which shares no code with the one it checks.

mod answer;
mod compressed_body;
mod context;
mod cookies;
mod endpoint;
mod key_filter;
mod path;
mod websocket;

use std::num::NonZeroUsize;
use std::sync::Arc;

use mcp_auth_protocol::sync::{self, Transport, UserContext};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::proxy::metrics::Metrics;
use crate::proxy::routes::{McpServer, Routes};

pub use answer::answer;
pub use compressed_body::compressed_body;
pub use context::context;
#[cfg(test)]
pub(crate) use cookies::Expected;
pub use cookies::cookies;
pub use endpoint::endpoint;
pub use key_filter::key_filter;
pub use path::path;
pub use websocket::websocket;

/// The server `tools` at `url`.
fn server(url: &str, transport: Transport) -> Arc<McpServer> {
    let metrics = Metrics::new(&mut Registry::default());
    let routes = Routes::new(NonZeroUsize::MIN, metrics, watch::Sender::default());
    let route = sync::Route {
        resource: "tools".into(),
        server: "tools".into(),
        url: url.into(),
        transport,
        http1_only: false,
        affinity_cookies: Vec::new(),
        answer_timeout_seconds: None,
        ca_bundle: None,
        cookies: Vec::new(),
        headers: vec!["x-forwarded-user".into()],
        user_context: UserContext::Optional,
        exchange: None,
        credential_identity: String::new(),
        audit: None,
        litellm: None,
    };
    let credential = sync::Credential::Unavailable {
        reason: "None".into(),
        message: "no token is needed here".into(),
        keep: false,
    };
    routes.apply(&[sync::Server {
        route,
        credential,
        resource_uid: None,
        client_certificate: None,
        egress_proxy: None,
        addresses: None,
        declined: None,
    }]);
    let server = routes.table().server("tools").cloned();
    server.expect("it was just put there")
}

/// Cuts `bytes` in pieces of one to `max_length` bytes, always the same for the same seed.
fn pieces(bytes: &[u8], mut seed: u32, max_length: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, after) = rest.split_at(rest.len().min(1 + (seed >> 16) as usize % max_length));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn repeat(target: &str, holds: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            holds(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} holds something", folder.display());
    }

    #[test]
    fn what_fuzzing_found_once_still_holds() {
        repeat("cookies", cookies);
        repeat("context", context);
        repeat("key_filter", key_filter);
        repeat("endpoint", endpoint);
        repeat("path", path);
        repeat("compressed_body", compressed_body);
        repeat("websocket", websocket);
        repeat("answer", answer);
    }

    #[test]
    fn pieces_are_the_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        for seed in 0..100 {
            assert_eq!(pieces(&bytes, seed, 9).concat(), bytes);
        }
    }
}
