#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_http_auth::fuzzing::challenge(data));
