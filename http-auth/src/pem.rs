//! PEM (RFC 7468): from text to DER and back. Read by hand, so that no copy of a key stays behind in memory,
//! and so that each of the usual mistakes has an error that names it.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Padding that was lost on the way does no harm.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One block of PEM, not decoded yet.
pub struct PemSection<'a> {
    pub label: &'a str,
    body: &'a str,
}

/// A text is broken PEM; holds what is wrong, after "PEM that".
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the text is PEM that {0}")]
pub struct PemError(pub &'static str);

impl<'a> PemSection<'a> {
    /// All blocks, in order; text around them is passed over.
    pub fn all(text: &'a str) -> Result<Vec<Self>, PemError> {
        let mut sections = Vec::new();
        let mut rest = text;
        while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
            let (label, begun) = begun
                .split_once("-----")
                .ok_or(PemError("has an incomplete BEGIN line"))?;
            let (body, ended) = begun.split_once("-----END ").ok_or(PemError("has no END line"))?;
            if !ended
                .strip_prefix(label)
                .is_some_and(|after| after.starts_with("-----"))
            {
                return Err(PemError("has a BEGIN and an END line that differ"));
            }
            sections.push(Self { label, body });
            rest = ended;
        }
        Ok(sections)
    }

    /// Whether it is encrypted in the old way, which RFC 1421 headers say.
    pub fn is_encrypted(&self) -> bool {
        self.body
            .lines()
            .any(|line| line.trim_start().starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
    }

    /// The DER within.
    pub fn decode(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        if self.body.contains("\\n") {
            return Err(PemError("has the two characters \\n where line breaks belong"));
        }
        // As long as it will get, so that no shorter copy is left behind while it grows.
        let mut text = Zeroizing::new(String::with_capacity(self.body.len()));
        for part in self.body.split_ascii_whitespace() {
            text.push_str(part);
        }
        let mut der = Zeroizing::new(Vec::with_capacity(text.len()));
        match BASE64.decode_vec(text.as_bytes(), &mut der) {
            Ok(()) if !der.is_empty() => Ok(der),
            Ok(()) => Err(PemError("holds nothing between its lines")),
            Err(_) => Err(PemError("holds something else than base64 between its lines")),
        }
    }
}

/// One block of PEM with lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> SecretString {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    // As long as it will get, so that no shorter copy is left behind while it grows.
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 64);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, further) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = further;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem.into()
}
