//! Injection, from outside: every pod in `testdata` through the whole decision.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod api_server;
mod container;
mod difficult;
mod documentation;
mod generated;
mod includes;
mod input;
mod meshes;
mod messages;
mod names;
mod neighbours;
mod policies;
mod properties;
mod runs;
mod second_look;
mod snapshots;
