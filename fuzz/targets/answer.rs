//! an answer over HTTP/1.1, by our client and by hyper's

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_auth_sidecar::promises::answer(data));
