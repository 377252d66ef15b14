//! `WWW-Authenticate`

#![no_main]

#[path = "../../http-auth/tests/promises/challenge.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|data: &[u8]| promises::challenge(data));
