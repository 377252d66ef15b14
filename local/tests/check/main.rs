//! `mcp-auth check` as a user runs it, with a stand-in for LiteLLM: what holds, and what is said of each set-up that
//! is broken.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod healthy;
mod litellm;
mod servers;
mod set_up;
mod settings;
#[path = "../support/mod.rs"]
mod support;
