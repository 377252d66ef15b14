//! The TokenReviews that the API server was asked for, by its audit log.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use jiff::Timestamp;
use serde::Deserialize;

use crate::setting;

/// From a moment on.
pub struct TokenReviews {
    /// What the log had by then, in bytes.
    begun_at: u64,
}

/// Of a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReviewCounts {
    pub all: usize,
    /// The greatest number that was under way at once, of all replicas together: received and not yet answered.
    pub at_once: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    object_ref: Option<ObjectRef>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct ObjectRef {
    resource: String,
}

impl TokenReviews {
    pub fn begin() -> Self {
        let log = fs::metadata(setting("MCPAUTH_TEST_AUDIT_LOG"));
        Self {
            begun_at: log.map_or(0, |log| log.len()),
        }
    }

    pub fn counts(&self) -> ReviewCounts {
        let mut log = fs::File::open(setting("MCPAUTH_TEST_AUDIT_LOG")).expect("the API server writes one");
        log.seek(SeekFrom::Start(self.begun_at)).expect("a file");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("JSON");
        // The last line may not be whole yet.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let reviews = lines.filter(|event: &Event| {
            let resource = event.object_ref.as_ref().map(|object| object.resource.as_str());
            resource == Some("tokenreviews")
        });
        let times = reviews.map(|event| (event.request_received_timestamp, event.stage_timestamp));
        counts(&times.collect::<Vec<_>>())
    }
}

/// Of requests by when they were received and answered.
fn counts(reviews: &[(Timestamp, Timestamp)]) -> ReviewCounts {
    // One that ends when another begins is not under way with it.
    let begins = reviews.iter().map(|(received, _)| (*received, 1_isize));
    let ends = reviews.iter().map(|(_, answered)| (*answered, -1));
    let mut changes: Vec<_> = begins.chain(ends).collect();
    changes.sort_unstable();
    let under_way = changes.iter().scan(0, |under_way, (_, change)| {
        *under_way += change;
        Some(*under_way)
    });
    ReviewCounts {
        all: reviews.len(),
        at_once: under_way.max().map_or(0, isize::unsigned_abs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_overlap_are_under_way_at_once() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let reviews = [(1, 4), (2, 3), (3, 5), (9, 9)].map(|(begin, end)| (at(begin), at(end)));
        let expected = ReviewCounts { all: 4, at_once: 2 };
        assert_eq!(counts(&reviews), expected);
        assert_eq!(counts(&[]), ReviewCounts { all: 0, at_once: 0 });
    }
}
