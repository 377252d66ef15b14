//! Outcome of a check, and how people see it.

use anstyle::Style;
use serde::Serialize;

use crate::output::{BAD, GOOD, UNKNOWN, WARNING};

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Outcome {
    Passed,
    /// It works, and wants attention.
    Warning,
    Fault,
    /// It could not be looked at.
    NotChecked,
}

impl Outcome {
    pub fn word(self) -> (&'static str, Style) {
        match self {
            Self::Passed => ("ok", GOOD),
            Self::Warning => ("warning", WARNING),
            Self::Fault => ("FAULT", BAD),
            Self::NotChecked => ("not checked", UNKNOWN),
        }
    }
}
