//! Clock offset: how far this machine's clock is ahead of the operator's. Tokens end at a time of the operator's clock;
//! here it is turned into one of ours, so that what is left of their life counts.

use jiff::Timestamp;
use mcp_auth_protocol::sync::Credential;

/// Clocks that differ by no more count as equal, and so does an offset that has changed by no more: what is sent takes a
/// moment, and a token that seemed to end at another time with each snapshot would be another token.
const TOLERANCE_SECONDS: i64 = 2;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClockOffset {
    seconds: i64,
}

impl ClockOffset {
    /// Something arrived that was sent at this time of the operator's clock; older operators do not state it.
    pub fn observe(&mut self, sent_at: Option<i64>) {
        self.observe_at(sent_at, Timestamp::now().as_second());
    }

    fn observe_at(&mut self, sent_at: Option<i64>, now: i64) {
        let Some(seconds) = sent_at.map(|sent_at| now.saturating_sub(sent_at)) else {
            return;
        };
        if seconds.saturating_sub(self.seconds).abs() > TOLERANCE_SECONDS {
            self.seconds = seconds;
        }
    }

    /// The credential with its end by our clock.
    pub fn apply(self, credential: &mut Credential) {
        if let Credential::Bearer {
            expires_at: Some(expires_at),
            ..
        } = credential
        {
            *expires_at = expires_at.saturating_add(self.seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_by(offset: ClockOffset) -> i64 {
        let mut credential = Credential::Bearer {
            id: String::new(),
            token: "t".into(),
            proof_key: None,
            expires_at: Some(1_300),
        };
        offset.apply(&mut credential);
        match credential {
            Credential::Bearer { expires_at, .. } => expires_at.unwrap(),
            Credential::Unavailable { .. } => panic!("it was a token"),
        }
    }

    #[test]
    fn what_is_left_of_a_token_counts_and_not_the_hour() {
        for (now, expected) in [(1_000, 1_300), (1_001, 1_300), (4_600, 4_900), (400, 700)] {
            let mut offset = ClockOffset::default();
            offset.observe_at(Some(1_000), now);
            assert_eq!(end_by(offset), expected, "300 seconds are left at {now}");
        }
    }

    #[test]
    fn the_end_stays_the_same_while_the_way_takes_a_little_longer_or_shorter() {
        let mut offset = ClockOffset::default();
        offset.observe_at(Some(1_000), 4_600);
        for (sent_at, now) in [(1_010, 4_611), (1_020, 4_619), (1_030, 4_632)] {
            offset.observe_at(Some(sent_at), now);
            assert_eq!(end_by(offset), 4_900);
        }
        offset.observe_at(None, 0);
        assert_eq!(end_by(offset), 4_900, "an older operator says nothing");
        offset.observe_at(Some(1_040), 1_040);
        assert_eq!(end_by(offset), 1_300, "the clock was set");
    }
}
