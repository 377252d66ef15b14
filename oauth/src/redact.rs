//! Redaction: from a server's words to text that may be repeated, without this client's secrets, in the
//! characters that RFC 6749 allows for errors, and not much of it. A server may echo what it was sent, and
//! its words end up in statuses and logs.

use std::collections::HashSet;

use base64::prelude::{BASE64_STANDARD, Engine};
use oauth2::ClientSecret;
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded::byte_serialize;

/// A piece of a secret this long counts as the secret. Shorter ones occur in innocent words.
const MIN_SECRET_PIECE: usize = 8;

/// Words that are never repeated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redactor {
    secrets: Vec<SecretString>,
}

impl Redactor {
    /// Never repeats a client secret, in all the forms that it is sent in.
    pub fn hide_client_secret(self, client_id: &str, secret: &ClientSecret) -> Self {
        let secret = secret.secret();
        let basic = BASE64_STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret)));
        self.hide_form_value(secret).hide(&basic)
    }

    /// Never repeats what was sent in a form.
    pub fn hide_form_value(self, text: &str) -> Self {
        let encoded = encode(text);
        let redactor = self.hide(text);
        if encoded == text {
            redactor
        } else {
            redactor.hide(&encoded)
        }
    }

    /// Never repeats this either.
    pub fn hide(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            // In lower case, which is how host names come back.
            self.secrets.push(secret.to_lowercase().into());
        }
        self
    }

    /// At most `most` characters of `words`, or nothing where they hold a secret or say nothing.
    pub fn redact(&self, server_text: &str, max_chars: usize) -> Option<String> {
        let server_text = server_text.trim();
        let text: String = server_text.chars().take(max_chars).map(printable).collect();
        // Looks beyond the cut as far as a secret can reach, and no further: the answer may be long.
        let longest = self
            .secrets
            .iter()
            .map(|secret| secret.expose_secret().len())
            .max();
        let searched: String = server_text
            .chars()
            .take(max_chars.saturating_add(longest.unwrap_or(0)))
            .collect();
        let leaks = self.holds_secret(&searched) || self.holds_secret(&text);
        (!leaks && !text.is_empty()).then_some(text)
    }

    fn holds_secret(&self, words: &str) -> bool {
        let words = words.to_lowercase();
        // Looked up and not searched for, since words and secrets may both be as long as an answer can be.
        let pieces: HashSet<&[u8]> = words.as_bytes().windows(MIN_SECRET_PIECE).collect();
        self.secrets.iter().any(|secret| {
            let secret = secret.expose_secret();
            if secret.len() < MIN_SECRET_PIECE {
                words.contains(secret)
            } else {
                secret
                    .as_bytes()
                    .windows(MIN_SECRET_PIECE)
                    .any(|piece| pieces.contains(piece))
            }
        })
    }
}

fn encode(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

/// The characters of `error` and `error_description`, RFC 6749 section 5.2.
fn printable(character: char) -> char {
    match character {
        ' '..='!' | '#'..='[' | ']'..='~' => character,
        '"' => '\'',
        character if character.is_whitespace() => ' ',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "p@ss/word+with spaces&more";

    fn redactor() -> Redactor {
        Redactor::default().hide_client_secret("id:1", &ClientSecret::new(SECRET.into()))
    }

    #[test]
    fn repeats_innocent_words_in_plain_characters() {
        assert_eq!(
            redactor()
                .redact(" Client \"x\"\nunknown \u{1b}[31m\u{202e}é ", 200)
                .unwrap(),
            "Client 'x' unknown ?[31m??"
        );
    }

    #[test]
    fn repeats_no_more_than_asked_for() {
        assert_eq!(redactor().redact(&"x".repeat(1000), 20).unwrap().len(), 20);
    }

    #[test]
    fn says_nothing_where_the_secret_is_in_any_form() {
        let encoded: String = byte_serialize(SECRET.as_bytes()).collect();
        let basic = BASE64_STANDARD.encode(format!("id%3A1:{encoded}"));
        for leaks in [
            SECRET,
            &encoded,
            &basic,
            &SECRET[3..15],
            &basic[..12],
            &SECRET.to_uppercase(),
        ] {
            assert_eq!(
                redactor().redact(&format!("bad secret {leaks}!"), 200),
                None,
                "{leaks}"
            );
        }
    }

    #[test]
    fn a_secret_across_the_cut_is_found() {
        let words = format!("{}{SECRET}", "x".repeat(17));
        assert_eq!(redactor().redact(&words, 20), None);
    }

    #[test]
    fn a_secret_far_behind_the_cut_does_no_harm_and_costs_nothing() {
        let words = format!("{}{SECRET}", "x".repeat(1000));
        assert_eq!(redactor().redact(&words, 20), Some("x".repeat(20)));
    }

    #[test]
    fn a_secret_shorter_than_a_piece_is_found_as_a_whole() {
        assert_eq!(Redactor::default().hide("abc").redact("xx abc yy", 200), None);
    }

    /// As an authorization server may send them. Searching for each piece would take minutes.
    #[test]
    fn a_long_secret_is_looked_for_in_long_words() {
        let secret: String = (0..60_000).map(|n| format!("{n:x}.")).collect();
        let words: String = (0..60_000).map(|n| format!("{n:x}-")).collect();
        let redactor = Redactor::default().hide(&secret);
        assert_eq!(redactor.redact(&words, 5).unwrap(), "0-1-2");
        let leaks = format!("{}{}{words}", &words[..1000], &secret[200_000..]);
        assert_eq!(redactor.redact(&leaks, 5), None);
    }

    #[test]
    fn debug_output_never_holds_the_secret() {
        assert!(!format!("{:?}", redactor()).contains("word"));
    }

    proptest! {
        #[test]
        fn only_allowed_characters_come_through(words in "\\PC*", most in 0_usize..300) {
            if let Some(text) = redactor().redact(&words, most) {
                prop_assert!(text.len() <= most);
                let is_allowed = |byte| (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\';
                prop_assert!(text.bytes().all(is_allowed));
            }
        }
    }
}
