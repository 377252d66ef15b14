//! What a line tells of a JSON-RPC message: method, tool, names of arguments and the trace. Of a body that is
//! not whole, or no JSON, as much as was read up to there.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

const TOOL_CALL: &str = "tools/call";
/// Longest name that a line holds, in bytes; what is longer is cut.
const MAX_NAME: usize = 256;
/// Most names of arguments in a line.
const MAX_ARGUMENTS: usize = 64;
/// Most messages of a batch that get a line each.
const MAX_BATCH: usize = 256;

/// Its texts are mostly slices of the body.
#[derive(Debug, Default, PartialEq)]
pub struct Message<'a> {
    pub method: Option<Cow<'a, str>>,
    /// Only of a tool call.
    pub tool: Option<Cow<'a, str>>,
    /// Only of a tool call, and only where they are asked for: names alone, in the order of the message.
    pub argument_names: Option<Vec<Cow<'a, str>>>,
    /// `_meta.traceparent`, in which LiteLLM's OpenTelemetry passes the trace on.
    pub traceparent: Option<Cow<'a, str>>,
}

/// The messages of a body: one, or those of a batch. None where the body is empty or holds none.
pub fn read(body: &[u8], with_argument_names: bool) -> Vec<Message<'_>> {
    let mut messages = Vec::with_capacity(1);
    let seed = BodySeed {
        messages: &mut messages,
        with_argument_names,
    };
    // What was read before an error stays. To check all of a body at once takes fewer instructions than to check each of
    // its texts; one that is cut within a character is still read up to there.
    let _ = match std::str::from_utf8(body) {
        Ok(text) => seed.deserialize(&mut serde_json::Deserializer::from_str(text)),
        Err(_) => seed.deserialize(&mut serde_json::Deserializer::from_slice(body)),
    };
    for message in &mut messages {
        if message.method.as_deref() != Some(TOOL_CALL) {
            message.tool = None;
            message.argument_names = None;
        }
    }
    messages
}

/// At most [`MAX_NAME`] bytes of a text.
pub fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_NAME {
        return text;
    }
    let mut text = text.into_owned();
    text.truncate(text.floor_char_boundary(MAX_NAME - "…".len()));
    text.push('…');
    text.into()
}

struct BodySeed<'m, 'de> {
    messages: &'m mut Vec<Message<'de>>,
    with_argument_names: bool,
}

impl<'de> DeserializeSeed<'de> for BodySeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message or a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut batch: A) -> Result<(), A::Error> {
        while self.messages.len() < MAX_BATCH {
            let message = MessageSeed {
                messages: self.messages,
                with_argument_names: self.with_argument_names,
            };
            if batch.next_element_seed(message)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let message = MessageSeed {
            messages: self.messages,
            with_argument_names: self.with_argument_names,
        };
        message.visit_map(map)
    }
}

struct MessageSeed<'m, 'de> {
    messages: &'m mut Vec<Message<'de>>,
    with_argument_names: bool,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let message = self.messages.push_mut(Message::default());
        while let Some(key) = map.next_key()? {
            match key {
                MessageKey::Method => message.method = map.next_value::<Text<'_>>()?.0,
                MessageKey::Params => map.next_value_seed(ObjectSeed(&mut Params {
                    message,
                    with_argument_names: self.with_argument_names,
                }))?,
                MessageKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum MessageKey {
    Method,
    Params,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum ParamsKey {
    Name,
    Arguments,
    #[serde(rename = "_meta")]
    Meta,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum MetaKey {
    Traceparent,
    #[serde(other)]
    Other,
}

/// The name of an argument, of bounded length.
struct ArgumentName<'a>(Cow<'a, str>);

/// What takes the members of an object, one after the other.
trait Members<'de> {
    type Key: Deserialize<'de>;

    fn member<A: MapAccess<'de>>(&mut self, key: Self::Key, map: &mut A) -> Result<(), A::Error>;
}

struct Params<'m, 'de> {
    message: &'m mut Message<'de>,
    with_argument_names: bool,
}
struct Meta<'m, 'de>(&'m mut Option<Cow<'de, str>>);
struct Arguments<'m, 'de>(&'m mut Vec<Cow<'de, str>>);

impl<'de> Members<'de> for Params<'_, 'de> {
    type Key = ParamsKey;

    fn member<A: MapAccess<'de>>(&mut self, key: ParamsKey, map: &mut A) -> Result<(), A::Error> {
        match key {
            ParamsKey::Name => self.message.tool = map.next_value::<Text<'_>>()?.0,
            ParamsKey::Arguments if self.with_argument_names => {
                let names = self.message.argument_names.insert(Vec::new());
                map.next_value_seed(ObjectSeed(&mut Arguments(names)))?;
            }
            ParamsKey::Meta => map.next_value_seed(ObjectSeed(&mut Meta(&mut self.message.traceparent)))?,
            ParamsKey::Arguments | ParamsKey::Other => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Members<'de> for Meta<'_, 'de> {
    type Key = MetaKey;

    fn member<A: MapAccess<'de>>(&mut self, key: MetaKey, map: &mut A) -> Result<(), A::Error> {
        match key {
            MetaKey::Traceparent => *self.0 = map.next_value::<Text<'_>>()?.0,
            MetaKey::Other => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Members<'de> for Arguments<'_, 'de> {
    type Key = ArgumentName<'de>;

    fn member<A: MapAccess<'de>>(&mut self, key: ArgumentName<'de>, map: &mut A) -> Result<(), A::Error> {
        if self.0.len() < MAX_ARGUMENTS {
            self.0.push(key.0);
        }
        map.next_value::<IgnoredAny>().map(drop)
    }
}

/// Hands an object's members to `M`, and ignores what is no object.
struct ObjectSeed<'a, M>(&'a mut M);

impl<'de, M: Members<'de>> DeserializeSeed<'de> for ObjectSeed<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! ignore_scalars {
    ($value:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
}

impl<'de, M: Members<'de>> Visitor<'de> for ObjectSeed<'_, M> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.member(key, &mut map)?;
        }
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    ignore_scalars!(());
}

/// A text of bounded length; `None` for any other value.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for ArgumentName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Keys of JSON are texts.
        let Text(name) = deserializer.deserialize_str(TextVisitor)?;
        Ok(Self(name.unwrap_or_default()))
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Some(cut(text.into()))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Some(cut(text.to_owned().into()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    ignore_scalars!(Text(None));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: &str = concat!(
        r#"{"method":"tools/call","params":{"_meta":{"progressToken":1,"traceparent":"00-a"},"name":"search","#,
        r#""arguments":{"query":"v4lue","limit":[1,{"query":2}],"o":{"x":"v4lue"}}},"jsonrpc":"2.0","id":7}"#
    );

    fn names<'a>(message: &'a Message<'_>) -> Vec<&'a str> {
        let names = message.argument_names.iter().flatten();
        names.map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_call_is_told_by_tool_and_names_of_arguments() {
        let [message] = read(CALL.as_bytes(), true).try_into().unwrap();
        assert_eq!(message.method.as_deref(), Some("tools/call"));
        assert_eq!(message.tool.as_deref(), Some("search"));
        assert_eq!(names(&message), ["query", "limit", "o"]);
        assert_eq!(message.traceparent.as_deref(), Some("00-a"));
    }

    #[test]
    fn names_of_arguments_that_are_not_asked_for_change_nothing_else() {
        let [message] = read(CALL.as_bytes(), false).try_into().unwrap();
        assert_eq!(message.argument_names, None);
        let [mut with_names] = read(CALL.as_bytes(), true).try_into().unwrap();
        with_names.argument_names = None;
        assert_eq!(message, with_names);
    }

    #[test]
    fn texts_with_escapes_are_told_as_what_they_mean() {
        let call =
            r#"{"\u006dethod":"tools\/call","params":{"n\u0061me":"s\u00e4\n","arguments":{"q\u0022":1}}}"#;
        let [message] = read(call.as_bytes(), true).try_into().unwrap();
        assert_eq!(message.method.as_deref(), Some("tools/call"));
        assert_eq!(message.tool.as_deref(), Some("sä\n"));
        assert_eq!(names(&message), ["q\""]);
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing_that_comes_after_them() {
        let call = r#"{"x":"?","method":"tools/call","params":{"y":["?"],"name":"search","arguments":{"a":"?","b":1}}}"#;
        let call: Vec<u8> = call
            .bytes()
            .map(|byte| if byte == b'?' { 0xff } else { byte })
            .collect();
        let [message] = read(&call, true).try_into().unwrap();
        assert_eq!(message.tool.as_deref(), Some("search"));
        assert_eq!(names(&message), ["a", "b"]);
    }

    #[test]
    fn other_methods_have_neither_tool_nor_arguments() {
        let prompt = r#"{"method":"prompts/get","params":{"name":"p","arguments":{"a":1}}}"#;
        let [message] = read(prompt.as_bytes(), true).try_into().unwrap();
        assert_eq!(message.method.as_deref(), Some("prompts/get"));
        assert_eq!((message.tool, message.argument_names), (None, None));
    }

    #[test]
    fn each_message_of_a_batch_is_told_within_bounds() {
        let batch = format!(
            r#"[{CALL},{{"method":"ping"}}{}]"#,
            r#",{"method":"x"}"#.repeat(2 * MAX_BATCH)
        );
        let messages = read(batch.as_bytes(), true);
        assert_eq!(messages.len(), MAX_BATCH);
        assert_eq!(messages[0].tool.as_deref(), Some("search"));
        assert_eq!(messages[1].method.as_deref(), Some("ping"));
    }

    #[test]
    fn what_is_wrong_or_cut_is_told_as_far_as_it_goes() {
        let cut = &CALL[..CALL.find("limit").unwrap()];
        let [message] = read(cut.as_bytes(), true).try_into().unwrap();
        assert_eq!(message.tool.as_deref(), Some("search"));
        assert_eq!(names(&message), ["query"]);
        for nothing in ["", "no JSON", "7", r#""tools/call""#, "[]"] {
            assert_eq!(read(nothing.as_bytes(), true), [], "{nothing}");
        }
        for odd in [
            r#"{"method":7}"#,
            r#"{"params":7}"#,
            r#"{"method":{"a":1},"params":[1]}"#,
        ] {
            assert_eq!(read(odd.as_bytes(), true), [Message::default()], "{odd}");
        }
    }

    #[test]
    fn names_are_bounded_in_length_and_number() {
        let arguments: Vec<String> = (0..1000)
            .map(|n| format!(r#""{}{n}":1"#, "ä".repeat(300)))
            .collect();
        let call = format!(
            r#"{{"method":"tools/call","params":{{"name":"{}","arguments":{{{}}}}}}}"#,
            "n".repeat(1000),
            arguments.join(",")
        );
        let [message] = read(call.as_bytes(), true).try_into().unwrap();
        assert_eq!(message.tool.as_ref().unwrap().len(), MAX_NAME);
        assert_eq!(names(&message).len(), MAX_ARGUMENTS);
        assert!(names(&message).iter().all(|name| name.len() <= MAX_NAME));
    }

    proptest! {
        #[test]
        fn no_value_of_an_argument_is_ever_told(end in 0..CALL.len(), noise in any::<Vec<u8>>()) {
            let body = [&CALL.as_bytes()[..end], &noise].concat();
            let told = format!("{:?}", read(&body, true));
            prop_assert!(!told.contains("v4lue"), "{told}");
        }
    }
}
