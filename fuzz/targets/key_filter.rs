//! our header's name as a JSON key, and the same through pieces

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_sidecar::promises::key_filter(data));
