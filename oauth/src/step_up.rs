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
    /// Nothing: they are granted, asked for already, or were refused of late.
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
        if demanded.is_subset(known) || demanded.iter().all(|scope| has.contains(scope.as_str())) {
            return Demand::Ignore;
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Rejection;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + second).unwrap()
    }

    fn scopes(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn demand(steps: &mut Steps, text: &str, second: i64) -> Demand {
        steps.demand(&scopes(text), None, at(second))
    }

    fn rejected(code: Code) -> Error {
        Error::Rejected(Rejection {
            code,
            description: None,
            status: 400,
            retry_after: None,
        })
    }

    /// Asks for what is to be asked for, and takes what comes.
    fn answer(steps: &mut Steps, scope: Option<&str>) -> Step {
        let asked = steps.ask();
        let step = steps.compare(&asked, scope);
        let taken = !matches!(step, Step::Short(_));
        steps.answered(&asked, scope, taken);
        step
    }

    fn granted(text: &str) -> Step {
        Step::Up(StepUp::Granted { scopes: scopes(text) })
    }

    #[test]
    fn asks_for_the_union_of_what_was_granted_and_what_is_demanded() {
        let mut steps = Steps::default();
        assert_eq!(demand(&mut steps, "b", 0), Demand::Ask);
        assert_eq!(answer(&mut steps, None), granted("b"));
        assert_eq!(demand(&mut steps, "a", 1), Demand::Ask);
        assert_eq!(steps.ask(), ["a", "b"]);
        assert_eq!(answer(&mut steps, Some("x a b")), granted("a b"));
        assert!(!steps.is_pending());
        assert_eq!(steps.ask(), ["a", "b"], "renewals ask for them too");
    }

    #[test]
    fn what_is_there_or_on_its_way_is_not_asked_for_again() {
        let mut steps = Steps::default();
        assert_eq!(demand(&mut steps, "a b", 0), Demand::Ask);
        assert_eq!(demand(&mut steps, "b", 0), Demand::Ignore);
        answer(&mut steps, None);
        assert_eq!(demand(&mut steps, "a", 0), Demand::Ignore);
        assert_eq!(steps.demand(&scopes("c"), Some("c d"), at(0)), Demand::Ignore);
        assert_eq!(demand(&mut steps, "", 0), Demand::Ignore);
    }

    #[test]
    fn a_refused_union_is_asked_for_again_after_an_hour_and_not_before() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        let refused = steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
        assert_eq!(
            refused,
            Miss::Refused(StepUp::Refused {
                scopes: scopes("a"),
                why: NoStepUp::Failed(rejected(Code::InvalidScope))
            })
        );
        assert!(steps.ask().is_empty() && !steps.is_pending());
        assert_eq!(demand(&mut steps, "a", 3599), Demand::Ignore);
        assert_eq!(demand(&mut steps, "a", 3600), Demand::Ask);
    }

    #[test]
    fn a_refused_scope_does_not_spoil_the_ones_demanded_later() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
        demand(&mut steps, "b", 0);
        assert_eq!(steps.ask(), ["b"]);
    }

    #[test]
    fn three_requests_an_hour_and_no_more() {
        let mut steps = Steps::default();
        for scope in ["a", "b", "c"] {
            assert_eq!(demand(&mut steps, scope, 0), Demand::Ask);
            answer(&mut steps, None);
        }
        assert_eq!(
            demand(&mut steps, "d", 3599),
            refuse(scopes("d"), NoStepUp::TooOften)
        );
        assert_eq!(demand(&mut steps, "d", 3600), Demand::Ask);
        assert_eq!(steps.ask(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_token_without_the_scopes_is_a_refusal_and_one_with_some_is_half_a_step() {
        let mut steps = Steps::default();
        demand(&mut steps, "a b", 0);
        let missing = |text| StepUp::Refused {
            scopes: scopes(text),
            why: NoStepUp::NotGranted,
        };
        assert_eq!(
            steps.compare(&steps.ask(), Some("tools")),
            Step::Short(missing("a b"))
        );
        assert_eq!(answer(&mut steps, Some("tools b")), Step::Half(missing("a")));
        assert_eq!(steps.ask(), ["b"]);
    }

    #[test]
    fn what_is_demanded_while_less_is_asked_for_is_asked_for_next() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        let asked = steps.ask();
        demand(&mut steps, "b", 0);
        steps.answered(&asked, None, true);
        assert!(steps.is_pending());
        assert_eq!(steps.ask(), ["a", "b"]);

        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        let asked = steps.ask();
        demand(&mut steps, "b", 0);
        steps.failed(&asked, &rejected(Code::InvalidScope));
        assert_eq!((steps.is_pending(), steps.ask()), (true, scopes("b")));
    }

    #[test]
    fn failures_of_other_kinds_are_tried_again_twice_and_then_give_way_to_regular_renewals() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        for error in [Error::Interrupted, rejected(Code::InvalidClient)] {
            assert_eq!(steps.failed(&steps.ask(), &error), Miss::Other);
            assert!(steps.is_pending());
        }
        let given_up = steps.failed(&steps.ask(), &Error::Interrupted);
        assert!(matches!(given_up, Miss::GivenUp(StepUp::Refused { .. })));
        assert!(steps.ask().is_empty());
        assert_eq!(demand(&mut steps, "a", 1), Demand::Ask, "nobody refused them");
    }

    #[test]
    fn scopes_that_are_granted_no_more_leave_the_registrations_own() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        answer(&mut steps, None);
        assert_eq!(steps.failed(&steps.ask(), &Error::Interrupted), Miss::Other);
        assert_eq!(steps.ask(), ["a"]);
        let miss = steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
        assert!(matches!(miss, Miss::Refused(_)));
        assert!(steps.ask().is_empty());
    }

    #[test]
    fn a_refusal_is_told_for_an_hour() {
        let mut steps = Steps::default();
        demand(&mut steps, "a", 0);
        let Miss::Refused(told) = steps.failed(&steps.ask(), &rejected(Code::InvalidScope)) else {
            panic!("the server refused them");
        };
        assert_eq!(steps.remembered(&told, at(3599)), told);
        assert_eq!(steps.remembered(&told, at(3600)), StepUp::None);
    }

    #[test]
    fn scopes_that_are_none_or_too_many_are_refused_as_a_whole_and_not_repeated() {
        let malformed = refuse([], NoStepUp::Malformed);
        let long = "x".repeat(LONGEST_SCOPE + 1);
        for scope in ["", "a b", "a\"b", "a\\b", "a\nb", "é", &long] {
            let demanded = [scope.to_owned(), "fine".to_owned()];
            assert_eq!(
                Steps::default().demand(&demanded, None, at(0)),
                malformed,
                "{scope}"
            );
        }
        let many: Vec<_> = (0..=MOST_SCOPES).map(|n| n.to_string()).collect();
        assert_eq!(Steps::default().demand(&many, None, at(0)), malformed);
    }

    proptest! {
        #[test]
        fn whatever_happens_at_most_three_requests_an_hour_are_new_and_they_stay_small(
            events in prop::collection::vec((0_u8..6, "[a-f]( [a-f]){0,3}", 0_i64..600), 1..200),
        ) {
            let mut steps = Steps::default();
            let (mut now, mut asks) = (0, Vec::new());
            for (event, text, wait) in events {
                now += wait;
                match event {
                    0..3 => {
                        if demand(&mut steps, &text, now) == Demand::Ask {
                            asks.push(now);
                            prop_assert!(steps.is_pending());
                        }
                    }
                    3 => { answer(&mut steps, Some(&text)); }
                    4 => { steps.failed(&steps.ask(), &rejected(Code::InvalidScope)); }
                    _ => { steps.failed(&steps.ask(), &Error::Interrupted); }
                }
                prop_assert!(steps.ask().len() <= MOST_SCOPES);
                prop_assert!(asks.iter().filter(|at| now - **at < 3600).count() <= MOST_ASKED);
            }
        }

        #[test]
        fn no_demand_panics(demanded in prop::collection::vec("\\PC{0,8}", 0..4), has in "\\PC{0,20}") {
            let _ = Steps::default().demand(&demanded, Some(&has), at(0));
        }
    }
}
