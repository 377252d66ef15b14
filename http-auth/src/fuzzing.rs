//! Test code, built under `cfg(test)` and by cargo-fuzz: what must hold of a challenge, whatever bytes it is
//! made of. A fuzzer looks for bytes that break it (`make fuzz`), and an ordinary test repeats those that
//! once mattered, from `fuzz/corpus`.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};

use crate::Challenge;

/// `WWW-Authenticate`, a field in each line.
pub fn challenge(data: &[u8]) {
    let headers: HeaderMap = data
        .split(|byte| *byte == b'\n')
        .filter_map(|field| Some((WWW_AUTHENTICATE, HeaderValue::from_bytes(field).ok()?)))
        .collect();
    if let Some(challenge) = Challenge::from_headers(&headers) {
        assert!(format!("{challenge:?}").len() < 64 * 260 + 4000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_fuzzing_found_once_still_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/challenge");
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            challenge(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} holds something", folder.display());
    }
}
