//! Injection, from outside: every pod in `testdata` through the whole decision.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod api_server;
mod documentation;
mod generated;
mod input;
mod meshes;
mod neighbours;
mod properties;
mod snapshots;
