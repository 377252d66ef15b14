//! Body shape: what a body looks like that is not the expected JSON.

/// What an answer that is not JSON looks like. A closed set: the answer itself may hold anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyShape {
    #[error("empty")]
    Empty,
    #[error("an HTML page")]
    Html,
    #[error("XML")]
    Xml,
    #[error("broken JSON")]
    BrokenJson,
    #[error("JSON without an object")]
    NoObject,
    /// By gzip.
    #[error("compressed")]
    Compressed,
    #[error("other text")]
    Other,
}

/// RFC 1952 section 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];

impl BodyShape {
    /// What a body looks like of which is known whether it is JSON.
    pub(crate) fn classify(body: &[u8], is_json: bool) -> Self {
        if body.starts_with(GZIP) {
            return Self::Compressed;
        }
        let start: String = String::from_utf8_lossy(&body[..body.len().min(512)])
            .trim_start_matches('\u{feff}')
            .trim_start()
            .to_ascii_lowercase();
        match start.as_str() {
            "" => Self::Empty,
            _ if is_json => Self::NoObject,
            html if html.starts_with("<!doctype html") || html.starts_with("<html") => Self::Html,
            xml if xml.starts_with('<') => Self::Xml,
            json if json.starts_with(['{', '[']) => Self::BrokenJson,
            _ => Self::Other,
        }
    }
}
