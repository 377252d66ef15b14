//! Secrets and tokens that tests have seen, for the test that looks for them afterwards in all that the
//! operator wrote.

use std::io::Write;

use crate::setting;

/// Shorter ones could stand anywhere by chance.
const SHORTEST: usize = 8;

/// Notes a secret, line by line, since that is how a log would show it. What is public in PEM is left out.
pub fn note(secret: &str) {
    let lines = secret.lines().map(str::trim);
    let lines = lines.filter(|line| line.len() >= SHORTEST && !line.starts_with("-----"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    // One call: other tests of the process write as well.
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(setting("MCPAUTH_TEST_SEEN"))
        .expect("the file of seen secrets can be opened");
    file.write_all(text.as_bytes())
        .expect("the file of seen secrets can be written");
}

/// Everything noted so far.
pub fn all() -> Vec<String> {
    let text = std::fs::read_to_string(setting("MCPAUTH_TEST_SEEN")).expect("tests have noted secrets");
    text.lines().map(str::to_owned).collect()
}
