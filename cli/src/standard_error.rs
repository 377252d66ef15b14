//! Lines for people on standard error.

use std::io::Write;

/// Text of the cluster without control characters, which a terminal would obey.
pub fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Prints a line to standard error.
pub fn print_error(text: &str) {
    // There is nowhere left to say that it failed.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
