//! a sealed context that is opened

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_sidecar::promises::context(data));
