//! The findings for people: one line each, and at the end the first fault with its way out.

use std::fmt::Write as _;

use super::finding::Report;
use crate::criteria;
use crate::outcome::Outcome;
use crate::output::{Cell, HEADING, WARNING, clean, paint, table};

pub fn render(report: &Report) -> String {
    let rows: Vec<Vec<Cell>> = report
        .findings
        .iter()
        .map(|finding| {
            let (word, style) = finding.outcome.word();
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
    let _ = writeln!(text, "{}\n", paint("The five success criteria:", HEADING));
    text.push_str(&criteria::render(&report.criteria));
    text.push('\n');
    match report.first_fault() {
        None if !report.healthy => text.push_str("A criterion is not met; no check found out why.\n"),
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
