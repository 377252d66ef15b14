//! Scopes that an MCP server demands beyond those of the registration (403, `insufficient_scope`): which of them to
//! ask for, how often, and what the authorization server made of it. A refusal costs nothing but itself: the token in
//! use serves on, and renewals go on with what was granted last.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;
use crate::{Code, Error};

/// Most scopes beyond the registration's. More make no sense for a tool, and a token request has to stay small.
const MOST_SCOPES: usize = 32;
/// Longest scope in bytes; scopes that are URLs are known.
const LONGEST_SCOPE: usize = 256;
/// Most requests for other scopes within [`MEMORY`].
const MOST_ASKED: usize = 3;
/// How long it is remembered what was asked for.
const MEMORY: Duration = Duration::from_secs(60 * 60);
/// Requests for the same scopes that may fail for other reasons before regular renewals come first again.
const MOST_TRIES: u32 = 3;

/// What became of the scopes that were demanded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum StepUp {
    /// None were demanded, or it is too long ago.
    #[default]
    None,
    /// The token in use has these scopes besides the registration's.
    Granted { scopes: Vec<String> },
    /// These are not to be had. What was granted before is kept to.
    Refused { scopes: Vec<String>, why: NoStepUp },
}

/// Why scopes that were demanded are not to be had.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoStepUp {
    #[error("the authorization server issued a token without them")]
    NotGranted,
    #[error("the token has them, and the MCP server demands them all the same")]
    StillDemanded,
    #[error("{0}")]
    Failed(Error),
    #[error("other scopes were asked for {MOST_ASKED} times within the hour")]
    TooOften,
    #[error(
        "the MCP server's challenge names scopes that are none by RFC 6749, longer than {LONGEST_SCOPE} bytes or more \
         than {MOST_SCOPES}"
    )]
    Malformed,
}

impl NoStepUp {
    /// Closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotGranted => "NotGranted",
            Self::StillDemanded => "StillDemanded",
            Self::Failed(error) => error.reason(),
            Self::TooOften => "TooOften",
            Self::Malformed => "Malformed",
        }
    }
}

type Scopes = BTreeSet<String>;

/// Scopes granted, scopes still to be asked for, and those asked for of late.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    granted: Scopes,
    wanted: Option<Wanted>,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Wanted {
    /// With what is granted already.
    scopes: Scopes,
    tries: u32,
}

#[derive(Debug)]
struct Asked {
    at: Timestamp,
    scopes: Scopes,
    refused: bool,
}

/// What a demand leads to.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Demand {
    /// A request.
    Ask,
    /// Nothing: they are asked for already, or were refused of late.
    Ignore,
    Refuse(StepUp),
}

/// What a token brought of the scopes that were asked for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing was asked for.
    None,
    /// All of them.
    Up(StepUp),
    /// Some that the token before did not have.
    Half(StepUp),
    /// None that the token before did not have.
    Short(StepUp),
}

/// What a failed request means for the scopes that it asked for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Miss {
    /// They are refused.
    Refused(StepUp),
    /// It failed for another reason, once too often to ask for them again.
    GivenUp(StepUp),
    /// It failed for another reason.
    Other,
}

impl Steps {
    /// An MCP server demands these scopes of the token in use, which has those of `has` if the server said so.
    pub fn demand(&mut self, demanded: &[String], has: Option<&str>, now: Timestamp) -> Demand {
        if demanded.is_empty() {
            return Demand::Ignore;
        }
        if demanded.len() > MOST_SCOPES || !demanded.iter().all(|scope| is_scope(scope)) {
            return refuse([], NoStepUp::Malformed);
        }
        self.forget(now);
        let demanded: Scopes = demanded.iter().cloned().collect();
        let known = self
            .wanted
            .as_ref()
            .map_or(&self.granted, |wanted| &wanted.scopes);
        let has: BTreeSet<&str> = has.unwrap_or_default().split(' ').collect();
        if self.wanted.is_some() && demanded.is_subset(known) {
            return Demand::Ignore;
        }
        if demanded.is_subset(known) || demanded.iter().all(|scope| has.contains(scope.as_str())) {
            return refuse(demanded, NoStepUp::StillDemanded);
        }
        let scopes: Scopes = known.union(&demanded).cloned().collect();
        if scopes.len() > MOST_SCOPES {
            return refuse(demanded, NoStepUp::Malformed);
        }
        if self
            .asked
            .iter()
            .any(|asked| asked.refused && asked.scopes == scopes)
        {
            return Demand::Ignore;
        }
        if self.asked.len() >= MOST_ASKED {
            return refuse(demanded, NoStepUp::TooOften);
        }
        self.asked.push(Asked {
            at: now,
            scopes: scopes.clone(),
            refused: false,
        });
        self.wanted = Some(Wanted { scopes, tries: 0 });
        Demand::Ask
    }

    /// Whether there are scopes still to be asked for.
    pub fn is_pending(&self) -> bool {
        self.wanted.is_some()
    }

    /// The scopes that the next request asks for besides the registration's.
    pub fn ask(&self) -> Vec<String> {
        let scopes = self
            .wanted
            .as_ref()
            .map_or(&self.granted, |wanted| &wanted.scopes);
        scopes.iter().cloned().collect()
    }

    /// What a token brings that was issued for these scopes. The server names the scope where it is not the one
    /// that was asked for (RFC 6749 section 5.1).
    pub fn compare(&self, asked: &[String], scope: Option<&str>) -> Step {
        if asked.is_empty() {
            return Step::None;
        }
        let got = got(asked, scope);
        if got.len() == asked.len() {
            let scopes = asked.to_vec();
            return Step::Up(StepUp::Granted { scopes });
        }
        let missing = asked.iter().filter(|scope| !got.contains(*scope)).cloned();
        let refused = StepUp::Refused {
            scopes: missing.collect(),
            why: NoStepUp::NotGranted,
        };
        match got.is_subset(&self.granted) {
            true => Step::Short(refused),
            false => Step::Half(refused),
        }
    }

    /// A request for these scopes was answered, with a token of this scope that takes over if `taken`.
    pub fn answered(&mut self, asked: &[String], scope: Option<&str>, taken: bool) {
        let got = got(asked, scope);
        let asked: Scopes = asked.iter().cloned().collect();
        self.finish(&asked, got != asked);
        if taken {
            self.granted = got;
        }
    }

    /// A request for these scopes failed.
    pub fn failed(&mut self, asked: &[String], error: &Error) -> Miss {
        let scopes: Scopes = asked.iter().cloned().collect();
        let beyond: Vec<_> = scopes.difference(&self.granted).cloned().collect();
        let told = |scopes: &[String]| StepUp::Refused {
            scopes: scopes.to_vec(),
            why: NoStepUp::Failed(error.clone()),
        };
        if concerns_scopes(error) && !beyond.is_empty() {
            self.finish(&scopes, true);
            return Miss::Refused(told(&beyond));
        }
        if concerns_scopes(error) && !scopes.is_empty() {
            // What was granted once is not any more: back to the registration's own.
            self.granted.clear();
            return Miss::Refused(told(asked));
        }
        match &mut self.wanted {
            Some(wanted) if !beyond.is_empty() => {
                wanted.tries += 1;
                if wanted.tries < MOST_TRIES {
                    return Miss::Other;
                }
                self.wanted = None;
                Miss::GivenUp(told(&beyond))
            }
            _ => Miss::Other,
        }
    }

    /// What is left to tell once refusals are too long ago to count.
    pub fn remembered(&mut self, told: &StepUp, now: Timestamp) -> StepUp {
        self.forget(now);
        match told {
            StepUp::Refused { .. } if !self.asked.is_empty() => told.clone(),
            _ if self.granted.is_empty() => StepUp::None,
            _ => StepUp::Granted {
                scopes: self.granted.iter().cloned().collect(),
            },
        }
    }

    /// Somebody else is asked from now on, or in another way: refusals so far do not count.
    pub fn start_over(&mut self) {
        self.asked.clear();
        if let Some(wanted) = &mut self.wanted {
            wanted.tries = 0;
        }
    }

    /// What was wanted beyond the granted is no longer, unless more was demanded while it was asked for.
    fn finish(&mut self, asked: &Scopes, refused: bool) {
        for entry in self.asked.iter_mut().filter(|entry| entry.scopes == *asked) {
            entry.refused |= refused;
        }
        if let Some(wanted) = &mut self.wanted {
            if refused {
                let granted = &self.granted;
                wanted
                    .scopes
                    .retain(|scope| granted.contains(scope) || !asked.contains(scope));
            }
            if wanted.scopes.is_subset(asked) || wanted.scopes.is_subset(&self.granted) {
                self.wanted = None;
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        // A time that seems to be yet to come was written before the clock was set back.
        self.asked
            .retain(|asked| asked.at <= now && now < after(asked.at, MEMORY));
    }
}

fn got(asked: &[String], scope: Option<&str>) -> Scopes {
    let granted: Option<BTreeSet<&str>> = scope.map(|scope| scope.split(' ').collect());
    asked
        .iter()
        .filter(|scope| {
            granted
                .as_ref()
                .is_none_or(|granted| granted.contains(scope.as_str()))
        })
        .cloned()
        .collect()
}

fn refuse(scopes: impl IntoIterator<Item = String>, why: NoStepUp) -> Demand {
    let scopes = scopes.into_iter().collect();
    Demand::Refuse(StepUp::Refused { scopes, why })
}

/// `scope-token` of RFC 6749 section 3.3.
fn is_scope(scope: &str) -> bool {
    let allowed = |byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=LONGEST_SCOPE).contains(&scope.len()) && scope.bytes().all(allowed)
}

/// Whether an error may be about the scopes that were asked for. Servers answer what they do not grant with codes of
/// many kinds; these few say for certain that it is something else.
fn concerns_scopes(error: &Error) -> bool {
    match error {
        Error::Rejected(rejection) => {
            rejection.retry_after.is_none()
                && !matches!(
                    rejection.code,
                    Code::InvalidClient
                        | Code::InvalidGrant
                        | Code::UnsupportedGrantType
                        | Code::ServerError
                        | Code::TemporarilyUnavailable
                )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
