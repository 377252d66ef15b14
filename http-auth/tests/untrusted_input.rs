//! Challenges that no server sends on purpose: those that fuzzing found once, and generated ones.

#[path = "promises/challenge.rs"]
mod promises;

use std::path::Path;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use mcp_auth_http_auth::Challenge;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn what_fuzzing_found_once_still_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/challenge");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        promises::challenge(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} holds something", folder.display());
}

proptest! {
    #[test]
    fn any_challenge_is_read(
        fields in vec(
            prop_oneof![
                vec(any::<u8>(), 0..200),
                "(Bearer|DPoP|Basic|,|=|\"|\\\\| |error|scope|resource_metadata|https://a.example|é){0,40}"
                    .prop_map(String::into_bytes),
                Just([b"Bearer scope=\"".as_slice(), &[b'x'; 100_000]].concat()),
                Just(b"Bearer ".repeat(10_000)),
            ],
            0..5,
        ),
    ) {
        let headers: HeaderMap = fields
            .iter()
            .filter_map(|field| Some((WWW_AUTHENTICATE, HeaderValue::from_bytes(field).ok()?)))
            .collect();
        if let Some(challenge) = Challenge::from_headers(&headers) {
            let seen = format!("{challenge:?}");
            prop_assert!(seen.len() < 64 * 260 + 3000);
        }
    }
}
