//! What a command prints: tables for people, JSON and YAML for programs. Colours only where a terminal shows
//! them: `anstream` strips them elsewhere, and where `NO_COLOR` is set.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::SignedDuration;
use serde::Serialize;

use crate::args::Format;
pub use crate::standard_error::{clean, print_error};

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const WARNING: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const UNKNOWN: Style = AnsiColor::Cyan.on_default();
pub const HEADING: Style = Style::new().bold();
pub const PLAIN: Style = Style::new();

/// Space between two columns, as kubectl has it.
const GAP: usize = 3;

/// One cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: clean(&text.into()),
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, PLAIN)
    }
}

/// Text in a style, with the escape sequences that end it.
pub fn paint(text: &str, style: Style) -> String {
    format!("{style}{}{style:#}", clean(text))
}

/// Rows under headings, each column as wide as its widest cell.
pub fn table(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    Table::new(headings).add(rows)
}

/// A table whose rows come little by little: a column grows with the widest cell so far.
pub struct Table {
    /// Until they have been printed.
    headings: Option<Vec<Cell>>,
    widths: Vec<usize>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        let cells = headings.iter().map(|heading| Cell::styled(*heading, HEADING));
        Self {
            headings: Some(cells.collect()),
            widths: vec![0; headings.len()],
        }
    }

    /// The rows as text, with the headings before the first of all.
    pub fn add(&mut self, rows: &[Vec<Cell>]) -> String {
        let headings = self.headings.take();
        let all = || headings.iter().chain(rows);
        for row in all() {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut text = String::new();
        for row in all() {
            for (column, cell) in row.iter().enumerate() {
                text.push_str(&paint(&cell.text, cell.style));
                let is_last = column + 1 == row.len();
                if !is_last {
                    let padding = self.widths[column] - cell.width() + GAP;
                    text.extend(std::iter::repeat_n(' ', padding));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// As in "9m 56s".
pub fn duration(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds))
}

/// JSON, indented, or YAML, with a line end.
pub fn structured(value: &impl Serialize, format: Format) -> String {
    let value = serde_json::to_value(value).expect("reports are plain values");
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&value).expect("plain values are JSON");
            format!("{text}\n")
        }
        Format::Yaml => serde_saphyr::to_string(&value).expect("plain values are YAML"),
    }
}

/// Prints to standard output. A reader that has gone, such as `head`, is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_whatever_the_colours() {
        let rows = [
            vec![
                Cell::styled("True", GOOD),
                Cell::from("a-long-name"),
                Cell::from("x"),
            ],
            vec![Cell::styled("Unknown", UNKNOWN), Cell::from("b"), Cell::from("y")],
        ];
        let expected = "READY     NAME          LAST\nTrue      a-long-name   x\nUnknown   b             y\n";
        assert_eq!(plain(&table(&["READY", "NAME", "LAST"], &rows)), expected);
    }

    #[test]
    fn rows_that_come_later_have_no_second_headings_and_keep_to_the_columns() {
        let mut table = Table::new(&["N", "V"]);
        assert_eq!(
            plain(&table.add(&[vec!["abc".into(), "x".into()]])),
            "N     V\nabc   x\n"
        );
        assert_eq!(plain(&table.add(&[vec!["a".into(), "y".into()]])), "a     y\n");
    }

    #[test]
    fn control_characters_of_the_cluster_do_not_reach_the_terminal() {
        let rows = [vec![Cell::from("a\u{1b}[2Jb\nc"), Cell::from("x")]];
        assert_eq!(table(&["N", "V"], &rows).lines().last().unwrap(), "a [2Jb c   x");
    }

    #[test]
    fn letters_count_and_not_bytes() {
        let rows = [
            vec![Cell::from("\u{fc}\u{fc}"), Cell::from("x")],
            vec![Cell::from("ab"), Cell::from("y")],
        ];
        assert_eq!(
            plain(&table(&["N", "V"], &rows)),
            "N    V\n\u{fc}\u{fc}   x\nab   y\n"
        );
    }
}
