//! the answer of a token endpoint

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_oauth::promises::token_response(data));
