//! Findings: what a check says of one thing.

use serde::Serialize;

use crate::criteria::{self, Criterion};
use crate::outcome::Outcome;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// What it speaks of, such as a resource.
    pub subject: String,
    pub outcome: Outcome,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

/// All findings, in the order of the checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub healthy: bool,
    /// Index of the first fault in `findings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_fault: Option<usize>,
    pub findings: Vec<Finding>,
    /// The five success criteria.
    pub criteria: Vec<Criterion>,
}

impl Finding {
    pub fn passed(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(check, subject, Outcome::Passed, message, None)
    }

    pub fn warning(
        check: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Warning, message, Some(way_out.into()))
    }

    pub fn fault(
        check: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Outcome::Fault, message, Some(way_out.into()))
    }

    pub fn not_checked(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(check, subject, Outcome::NotChecked, message, None)
    }

    fn new(
        check: &'static str,
        subject: impl Into<String>,
        outcome: Outcome,
        message: impl Into<String>,
        way_out: Option<String>,
    ) -> Self {
        Self {
            check,
            subject: subject.into(),
            outcome,
            message: message.into(),
            way_out,
        }
    }
}

impl Report {
    pub fn new(findings: Vec<Finding>, criteria: Vec<Criterion>) -> Self {
        let first_fault = findings
            .iter()
            .position(|finding| finding.outcome == Outcome::Fault);
        Self {
            healthy: first_fault.is_none() && criteria::are_met(&criteria),
            first_fault,
            findings,
            criteria,
        }
    }

    pub fn first_fault(&self) -> Option<&Finding> {
        self.findings.get(self.first_fault?)
    }
}
