//! What a command prints: tables for people, JSON and YAML for programs. Colours only where a terminal shows
//! them: `anstream` strips them elsewhere, and where `NO_COLOR` is set.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Format;

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

/// Text of the cluster without control characters, which a terminal would obey.
pub fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Rows under headings, each column as wide as its widest cell.
pub fn table(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let headings: Vec<Cell> = headings
        .iter()
        .map(|heading| Cell::styled(*heading, HEADING))
        .collect();
    let all = || std::iter::once(&headings).chain(rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(&paint(&cell.text, cell.style));
            let is_last = column + 1 == row.len();
            if !is_last {
                let padding = widths[column] - cell.text.chars().count() + GAP;
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
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

/// Prints a line to standard error.
pub fn print_error(text: &str) {
    // There is nowhere left to say that it failed.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
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
