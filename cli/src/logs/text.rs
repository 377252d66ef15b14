//! Audit lines for people, as rows of one table, or for programs, as they were written.

use std::io;

use super::line::{AuditLine, Fields};
use crate::args::LineFormat;
use crate::output::{self, BAD, Cell, GOOD, Table, WARNING};

const HEADINGS: [&str; 9] = [
    "TIME", "POD", "SERVER", "METHOD", "TOOL", "USER", "OUTCOME", "STATUS", "MS",
];

pub struct Printer {
    format: Option<LineFormat>,
    table: Table,
}

impl Printer {
    pub fn new(format: Option<LineFormat>) -> Self {
        Self {
            format,
            table: Table::new(&HEADINGS),
        }
    }

    pub fn print(&mut self, lines: &[AuditLine]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        match self.format {
            Some(LineFormat::Json) => {
                let texts: Vec<String> = lines.iter().map(|line| format!("{}\n", line.text)).collect();
                output::print(&texts.concat())
            }
            None => {
                let rows: Vec<Vec<Cell>> = lines.iter().map(|line| row(&line.fields)).collect();
                output::print(&self.table.add(&rows))
            }
        }
    }
}

fn row(fields: &Fields) -> Vec<Cell> {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let user = fields.user.as_ref();
    let user = user.and_then(|user| {
        let problem = user.problem.as_ref().map(|problem| format!("? ({problem})"));
        user.id.clone().or_else(|| user.fingerprint.clone()).or(problem)
    });
    let outcome = match (&fields.outcome, &fields.reason) {
        (outcome, Some(reason)) => format!("{outcome}: {reason}"),
        (outcome, None) => outcome.clone(),
    };
    let style = match (fields.outcome.as_str(), fields.status) {
        ("answered", Some(..=399)) => GOOD,
        ("answered", _) => WARNING,
        _ => BAD,
    };
    let status = fields.status.map(|status| status.to_string());
    let duration = fields.duration_ms.map(|duration| format!("{duration:.1}"));
    vec![
        fields.time.clone().into(),
        fields.pod.clone().into(),
        fields.server.clone().into(),
        or_dash(Some(fields.method.as_ref().unwrap_or(&fields.http_method))).into(),
        or_dash(fields.tool.as_deref()).into(),
        or_dash(user.as_deref()).into(),
        Cell::styled(outcome, style),
        or_dash(status.as_deref()).into(),
        or_dash(duration.as_deref()).into(),
    ]
}
