//! a path to an MCP server

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_sidecar::promises::path(data));
