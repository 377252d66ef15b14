//! After the filter no JSON parser finds the context header's name as a key, and nothing else has changed.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::http::json_key_filter::KeyFilter;

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
        let renamed = matches!((before, after), (b't' | b'T', b'_') | (b'4', b'f'));
        assert!(before == after || renamed);
    }
    assert_eq!(filtered(&[&whole]), whole, "nothing is left to rename");

    let (before, after) = (parse(text), parse(&whole));
    assert_eq!(before.is_some(), after.is_some());
    if let (Some(before), Some(after)) = (before, after) {
        assert!(!after.names_context_header());
        assert!(after.follows(&before));
    }
}

fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
    let mut filter = KeyFilter::default();
    let mut out = Vec::new();
    for chunk in chunks {
        let (before, after) = filter.pass(Bytes::copy_from_slice(chunk));
        out.extend(before);
        out.extend_from_slice(&after);
    }
    out.extend(filter.finish());
    out
}

fn parse(text: &[u8]) -> Option<Json> {
    serde_json::from_slice(text).ok()
}

/// The context header's name, also as LiteLLM's `x-mcp-SERVER-` states it for one server.
fn is_context_header(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let prefixed = key.starts_with("x-mcp-") && key.ends_with("mcpauth-context");
    key == "mcpauth-context" || prefixed && key.len() >= "x-mcp-mcpauth-context".len()
}

impl Json {
    fn names_context_header(&self) -> bool {
        match self {
            Self::Other(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::names_context_header),
            Self::Object(pairs) => pairs
                .iter()
                .any(|(key, value)| is_context_header(key) || value.names_context_header()),
        }
    }

    /// Whether this is `before` with another last character of each key that was the context header.
    fn follows(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::List(now), Self::List(before)) => {
                now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now.follows(before))
            }
            (Self::Object(now), Self::Object(before)) => {
                let follows =
                    |((key, value), (key_before, value_before)): (&(String, Self), &(String, Self))| {
                        let same = match is_context_header(key_before) {
                            true => {
                                key.len() == key_before.len()
                                    && key[..key.len() - 1] == key_before[..key.len() - 1]
                            }
                            false => key == key_before,
                        };
                        same && value.follows(value_before)
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
