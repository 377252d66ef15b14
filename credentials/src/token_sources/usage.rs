//! When the usage of a resource's tokens is to be published once more though nothing happens.

use jiff::{SignedDuration, Timestamp};
use mcp_auth_oauth::{IssuedToday, TokenCount};

use crate::store::TokenUsage;

/// How often it is published while users get tokens: fewer are expected as soon as they stop.
const USERS_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// Where there is no quota, the counts of all resources are not to end in the same moment: they do within this time.
const SPREAD_SECONDS: i64 = 10 * 60;

/// When it changes by itself.
pub fn next_change(count: &TokenCount, usage: Option<&TokenUsage>, now: Timestamp) -> Option<Timestamp> {
    let end = IssuedToday::ends_at(now);
    let end = match usage?.quota {
        Some(_) => end,
        // By chance enough: whenever it was published last.
        None => after(
            end,
            SignedDuration::from_secs(now.as_second().rem_euclid(SPREAD_SECONDS)),
        ),
    };
    Some(match count.has_recent_users(now) {
        true => end.min(after(now, USERS_INTERVAL)),
        false => end,
    })
}

fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.saturating_add(span)
        .expect("a duration holds no calendar units")
}
