//! a JWT and its keys

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_oauth::promises::jwt(data));
