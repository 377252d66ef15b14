//! Bytes as no well-behaved program sends them, over real sockets, to both halves of a sidecar and to it from
//! the servers behind it. One table says what becomes of each ([`requests`], [`answers`]); docs/raw-input.md
//! shows it, and `UPDATE_DOCS=1 cargo test -p mcp-auth-sidecar --test raw` writes it there.

// Clippy knows only functions marked as tests for tests; what they share is one as well.
#![allow(clippy::unwrap_used)]

mod answers;
mod bodies;
mod docs;
mod frames;
mod peer;
mod requests;
mod row;
// The ground of the other tests of the data path, of which these need a part.
#[allow(dead_code)]
#[path = "../data_path/scene.rs"]
mod scene;
mod slow;
mod websockets;
