//! What a line tells of a JSON-RPC message: method, tool, names of arguments and the trace. Of a body that is
//! not whole, or no JSON, as much as was read up to there.

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

#[derive(Debug, Default, PartialEq)]
pub struct Message {
    pub method: Option<String>,
    /// Only of a tool call.
    pub tool: Option<String>,
    /// Only of a tool call: names alone, in the order of the message.
    pub argument_names: Option<Vec<String>>,
    /// `_meta.traceparent`, in which LiteLLM's OpenTelemetry passes the trace on.
    pub traceparent: Option<String>,
}

/// The messages of a body: one, or those of a batch. None where the body is empty or holds none.
pub fn read(body: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    // What was read before an error stays.
    let _ = BodySeed(&mut messages).deserialize(&mut serde_json::Deserializer::from_slice(body));
    for message in &mut messages {
        if message.method.as_deref() != Some(TOOL_CALL) {
            message.tool = None;
            message.argument_names = None;
        }
    }
    messages
}

/// At most [`MAX_NAME`] bytes of a text.
pub fn cut(mut text: String) -> String {
    if text.len() > MAX_NAME {
        text.truncate(text.floor_char_boundary(MAX_NAME - "…".len()));
        text.push('…');
    }
    text
}

struct BodySeed<'a>(&'a mut Vec<Message>);

impl<'de> DeserializeSeed<'de> for BodySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message or a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut batch: A) -> Result<(), A::Error> {
        while self.0.len() < MAX_BATCH && batch.next_element_seed(MessageSeed(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        MessageSeed(self.0).visit_map(map)
    }
}

struct MessageSeed<'a>(&'a mut Vec<Message>);

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let message = self.0.push_mut(Message::default());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "method" => message.method = map.next_value::<Text>()?.0,
                "params" => map.next_value_seed(ObjectSeed(&mut Params(message)))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What takes the members of an object, one after the other.
trait Members {
    fn member<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error>;
}

struct Params<'a>(&'a mut Message);
struct Meta<'a>(&'a mut Option<String>);
struct Arguments<'a>(&'a mut Vec<String>);

impl Members for Params<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "name" => self.0.tool = map.next_value::<Text>()?.0,
            "arguments" => {
                let names = self.0.argument_names.insert(Vec::new());
                map.next_value_seed(ObjectSeed(&mut Arguments(names)))?;
            }
            "_meta" => map.next_value_seed(ObjectSeed(&mut Meta(&mut self.0.traceparent)))?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl Members for Meta<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "traceparent" => *self.0 = map.next_value::<Text>()?.0,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl Members for Arguments<'_> {
    fn member<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        if self.0.len() < MAX_ARGUMENTS {
            self.0.push(cut(key));
        }
        map.next_value::<IgnoredAny>().map(drop)
    }
}

/// Hands an object's members to `M`, and ignores what is no object.
struct ObjectSeed<'a, M>(&'a mut M);

impl<'de, M: Members> DeserializeSeed<'de> for ObjectSeed<'_, M> {
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

impl<'de, M: Members> Visitor<'de> for ObjectSeed<'_, M> {
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
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(cut(text.to_owned()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
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

    fn names(message: &Message) -> Vec<&str> {
        let names = message.argument_names.iter().flatten();
        names.map(String::as_str).collect()
    }

    #[test]
    fn a_call_is_told_by_tool_and_names_of_arguments() {
        let [message] = read(CALL.as_bytes()).try_into().unwrap();
        assert_eq!(message.method.as_deref(), Some("tools/call"));
        assert_eq!(message.tool.as_deref(), Some("search"));
        assert_eq!(names(&message), ["query", "limit", "o"]);
        assert_eq!(message.traceparent.as_deref(), Some("00-a"));
    }

    #[test]
    fn other_methods_have_neither_tool_nor_arguments() {
        let prompt = r#"{"method":"prompts/get","params":{"name":"p","arguments":{"a":1}}}"#;
        let [message] = read(prompt.as_bytes()).try_into().unwrap();
        assert_eq!(message.method.as_deref(), Some("prompts/get"));
        assert_eq!((message.tool, message.argument_names), (None, None));
    }

    #[test]
    fn each_message_of_a_batch_is_told_within_bounds() {
        let batch = format!(
            r#"[{CALL},{{"method":"ping"}}{}]"#,
            r#",{"method":"x"}"#.repeat(2 * MAX_BATCH)
        );
        let messages = read(batch.as_bytes());
        assert_eq!(messages.len(), MAX_BATCH);
        assert_eq!(messages[0].tool.as_deref(), Some("search"));
        assert_eq!(messages[1].method.as_deref(), Some("ping"));
    }

    #[test]
    fn what_is_wrong_or_cut_is_told_as_far_as_it_goes() {
        let cut = &CALL[..CALL.find("limit").unwrap()];
        let [message] = read(cut.as_bytes()).try_into().unwrap();
        assert_eq!(message.tool.as_deref(), Some("search"));
        assert_eq!(names(&message), ["query"]);
        for nothing in ["", "no JSON", "7", r#""tools/call""#, "[]"] {
            assert_eq!(read(nothing.as_bytes()), [], "{nothing}");
        }
        for odd in [
            r#"{"method":7}"#,
            r#"{"params":7}"#,
            r#"{"method":{"a":1},"params":[1]}"#,
        ] {
            assert_eq!(read(odd.as_bytes()), [Message::default()], "{odd}");
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
        let [message] = read(call.as_bytes()).try_into().unwrap();
        assert_eq!(message.tool.as_ref().unwrap().len(), MAX_NAME);
        assert_eq!(names(&message).len(), MAX_ARGUMENTS);
        assert!(names(&message).iter().all(|name| name.len() <= MAX_NAME));
    }

    proptest! {
        #[test]
        fn no_value_of_an_argument_is_ever_told(end in 0..CALL.len(), noise in any::<Vec<u8>>()) {
            let body = [&CALL.as_bytes()[..end], &noise].concat();
            let told = format!("{:?}", read(&body));
            prop_assert!(!told.contains("v4lue"), "{told}");
        }
    }
}
