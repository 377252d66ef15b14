//! The distinct users whose requests failed last: whether a failure is evidence about the server, or may be about
//! what a single user sends as their token.

use std::collections::VecDeque;

use super::User;
use crate::renewal::breaker::FAILURE_THRESHOLD;

/// As many as open the circuit, the latest last.
#[derive(Default)]
pub(super) struct AffectedUsers(VecDeque<User>);

impl AffectedUsers {
    /// A request for this user failed. Returns whether the user is another one than those whose requests failed
    /// last.
    pub fn insert(&mut self, user: User) -> bool {
        if self.0.contains(&user) {
            return false;
        }
        // Bounded, so that in a long outage no crowd of users that all failed before is let through together.
        if self.0.len() >= FAILURE_THRESHOLD as usize {
            self.0.pop_front();
        }
        self.0.push_back(user);
        true
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
