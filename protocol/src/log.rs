//! What is logged, as users say it: a level, or directives `TARGET=LEVEL` separated by commas. The libraries that read
//! directives take any other word for the name of a target, of which there is none, and then nothing is logged at all.

use thiserror::Error;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is no level: there are {levels}", levels = LEVELS.join(", "))]
pub struct NoLevel(String);

/// Checks that each word alone is a level. What else is wrong is told by the parsers of directives.
pub fn check_levels(directives: &str) -> Result<(), NoLevel> {
    let is_word = |text: &&str| {
        let of_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        !text.is_empty() && text.bytes().all(of_word)
    };
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let mut words = directives.split(',').map(str::trim).filter(is_word);
    match words.find(|word| !is_level(word)) {
        Some(word) => Err(NoLevel(word.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_named() {
        for (directives, word) in [
            ("verbose", "verbose"),
            ("info,h2", "h2"),
            (" warning ", "warning"),
            ("mcp_auth::proxy,info", "mcp_auth::proxy"),
        ] {
            let message = check_levels(directives).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{word:?} is no level")), "{message}");
        }
    }

    #[test]
    fn levels_and_directives_are_taken() {
        for directives in [
            "",
            "off",
            "INFO",
            "Debug,",
            "info, h2=debug",
            "mcp_auth[call]=trace,warn",
        ] {
            assert_eq!(check_levels(directives), Ok(()), "{directives}");
        }
    }
}
