//! When tokens are renewed and how long a request may take, from the durations of a spec.

use std::time::Duration;

use mcp_auth_oauth::{Limits, Policy, RefreshBefore, TimeSpan};

use super::invalid;
use crate::not_served::NotServedError;

/// Longest time that passes before a token request is sent: discovery (30 s), a turn at the server (20 s), and what
/// lies between.
const PREPARATION_TIMEOUT: Duration = Duration::from_secs(55);

/// When tokens are renewed, and how long a request may take.
pub(super) struct Timing {
    refresh_before: RefreshBefore,
    /// `None`: every token states its life.
    assumed_lifetime: Option<Duration>,
    request_timeout: Duration,
}

impl Timing {
    /// `part` is the part of the spec that the durations are fields of.
    pub(super) fn parse(
        part: &str,
        refresh_before: &str,
        assumed_lifetime: Option<&str>,
        request_timeout: &str,
    ) -> Result<Self, NotServedError> {
        let span = |field: &str, text: &str| match text.parse::<TimeSpan>() {
            Ok(TimeSpan(duration)) => Ok(duration),
            Err(error) => Err(invalid(format!("{part}.{field} {error}"))),
        };
        Ok(Self {
            refresh_before: refresh_before
                .parse()
                .map_err(|error| invalid(format!("{part}.refreshBefore: {error}")))?,
            assumed_lifetime: assumed_lifetime
                .map(|text| span("assumedLifetime", text))
                .transpose()?,
            request_timeout: span("requestTimeout", request_timeout)?,
        })
    }

    pub(super) fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            refresh_before: self.refresh_before,
            assumed_lifetime: self.assumed_lifetime.unwrap_or(default.assumed_lifetime),
            deadline: PREPARATION_TIMEOUT + self.request_timeout,
            ..default
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            deadline: self.request_timeout,
            connect: default.connect.min(self.request_timeout),
            ..default
        }
    }
}
