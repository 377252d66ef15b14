//! a private key in PEM or JWK

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_oauth::promises::key(data));
