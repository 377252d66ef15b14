//! The findings for people: one line each, and at the end the first fault with its way out.

use std::fmt::Write as _;

use super::finding::{Outcome, Report};
use crate::output::{BAD, Cell, GOOD, HEADING, UNKNOWN, WARNING, clean, paint, table};

pub fn render(report: &Report) -> String {
    let rows: Vec<Vec<Cell>> = report
        .findings
        .iter()
        .map(|finding| {
            let (word, style) = match finding.outcome {
                Outcome::Passed => ("ok", GOOD),
                Outcome::Warning => ("warning", WARNING),
                Outcome::Fault => ("FAULT", BAD),
                Outcome::NotChecked => ("not checked", UNKNOWN),
            };
            vec![
                Cell::styled(word, style),
                finding.check.into(),
                finding.subject.clone().into(),
                finding.message.clone().into(),
            ]
        })
        .collect();
    let mut text = table(&["RESULT", "CHECK", "OF", "WHAT WAS FOUND"], &rows);
    let mut advice = String::new();
    let warnings = report
        .findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Warning);
    for warning in warnings {
        if let Some(way_out) = &warning.way_out {
            let about = paint(&format!("{} {}", warning.check, warning.subject), WARNING);
            let _ = writeln!(advice, "{about}: {}", clean(way_out));
        }
    }
    if !advice.is_empty() {
        text.push('\n');
        text.push_str(&advice);
    }
    text.push('\n');
    match report.first_fault() {
        None => text.push_str("No fault was found.\n"),
        Some(fault) => {
            let first = format!("{} {}: {}", fault.check, fault.subject, fault.message);
            let _ = writeln!(text, "{} {}", paint("First fault:", HEADING), clean(&first));
            if let Some(way_out) = &fault.way_out {
                let _ = writeln!(text, "{} {}", paint("Way out:", HEADING), clean(way_out));
            }
        }
    }
    text
}
