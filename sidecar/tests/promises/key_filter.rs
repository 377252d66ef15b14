//! After the filter no JSON parser finds a key by which LiteLLM would send our header, or headers for a server of ours, and
//! nothing else has changed.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::http::json_key_filter::{KeyFilter, ServerNames};

pub const SERVERS: [&str; 2] = ["tools", "desk"];

/// JSON as it is written: every key of an object, in their order, also where one occurs twice.
#[derive(Debug, PartialEq)]
enum Json {
    Other(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The first four bytes seed how the others are cut.
pub fn key_filter(data: &[u8]) {
    let Some((seed, text)) = data.split_first_chunk() else {
        return;
    };
    let whole = filtered(&[text]);
    let cut = filtered(&super::pieces(text, u32::from_be_bytes(*seed), 8));
    assert_eq!(whole, cut, "however it is cut");
    assert_eq!(whole.len(), text.len());
    for (before, after) in text.iter().zip(&whole) {
        let renamed = matches!(
            (before, after),
            (b'r' | b'R' | b's' | b'S' | b't' | b'T' | b'-', b'_')
                | (b'2'..=b'4', b'f')
                | (b'd', b'e')
                | (b'D', b'E')
        );
        assert!(before == after || renamed);
    }
    assert_eq!(filtered(&[&whole]), whole, "nothing is left to rename");

    let (before, after) = (parse(text), parse(&whole));
    assert_eq!(before.is_some(), after.is_some());
    if let (Some(before), Some(after)) = (before, after) {
        assert!(!after.names_headers());
        assert!(after.follows(&before));
    }
}

fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
    let mut filter = KeyFilter::new(ServerNames::new(SERVERS));
    let mut out = Vec::new();
    for chunk in chunks {
        let (before, after) = filter.pass(Bytes::copy_from_slice(chunk));
        out.extend(before);
        out.extend_from_slice(&after);
    }
    out.extend(filter.finish());
    out
}

/// Whether the text names headers by a key; `None` where it is not JSON.
pub fn names_headers(text: &[u8]) -> Option<bool> {
    Some(parse(text)?.names_headers())
}

fn parse(text: &[u8]) -> Option<Json> {
    serde_json::from_slice(text).ok()
}

/// Where letters of a key have to change: behind the name of the server in LiteLLM's `x-mcp-SERVER-HEADER`, and at the end of
/// the context header's name, alone or for one server, and of the members that hold headers.
fn letters_to_change(key: &str) -> Vec<usize> {
    let hyphen = hyphen_behind_server(key);
    let key = key.to_ascii_lowercase();
    let words = ["mcpauth-context", "mcp_auth_header", "mcp_server_auth_headers"];
    let behind_prefix = key.strip_prefix("x-mcp-").unwrap_or_default();
    let is_name = words.contains(&key.as_str()) || behind_prefix.ends_with("mcpauth-context");
    let last = is_name.then(|| key.len() - 1);
    hyphen.into_iter().chain(last).collect()
}

/// Letters in lower case, as LiteLLM reads them: the Kelvin sign is a `k`.
fn hyphen_behind_server(key: &str) -> Option<usize> {
    let hyphen_behind = |server: &str| {
        let expected = format!("x-mcp-{server}-");
        let letters = key.char_indices().take(expected.len());
        let lower: String = letters
            .clone()
            .flat_map(|(_, letter)| letter.to_lowercase())
            .collect();
        let (hyphen, _) = letters.last()?;
        (lower == expected).then_some(hyphen)
    };
    SERVERS.into_iter().find_map(hyphen_behind)
}

impl Json {
    fn names_headers(&self) -> bool {
        match self {
            Self::Other(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::names_headers),
            Self::Object(pairs) => pairs
                .iter()
                .any(|(key, value)| !letters_to_change(key).is_empty() || value.names_headers()),
        }
    }

    /// Whether this is `before` with other letters where some have to change.
    fn follows(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::List(now), Self::List(before)) => {
                now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now.follows(before))
            }
            (Self::Object(now), Self::Object(before)) => {
                let follows =
                    |((key, value), (key_before, value_before)): (&(String, Self), &(String, Self))| {
                        let changed = letters_to_change(key_before);
                        let mut letters = key.bytes().zip(key_before.bytes()).enumerate();
                        let same = letters.all(|(at, (now, before))| now == before || changed.contains(&at));
                        key.len() == key_before.len() && same && value.follows(value_before)
                    };
                now.len() == before.len() && now.iter().zip(before).all(follows)
            }
            _ => self == before,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten)
    }
}

struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other("null".into()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            object.push(pair);
        }
        Ok(Json::Object(object))
    }
}
