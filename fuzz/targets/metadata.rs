//! an authorization server's metadata

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_oauth::promises::metadata(data));
