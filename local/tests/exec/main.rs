//! `mcp-auth exec` as a user runs it: real processes, real signals, and a stand-in for LiteLLM's process
//! (`litellm.py`), since what is asked here is what becomes of processes, ports and exit codes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod expiring;
mod observed;
mod processes;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
