//! Looks values up in an object by a path such as `spec/template/spec/containers/operator/args/--listen=`.

use serde_json::Value;

/// The value at the path, or null. Each segment is a field; in a list it is an index, the `name` of an item, or the beginning
/// of an item that is text. In text that holds JSON the path goes on. A `~1` stands for a slash.
pub fn lookup(object: &Value, path: &str) -> Value {
    path.split('/')
        .map(|segment| segment.replace("~1", "/"))
        .fold(object.clone(), |value, segment| step(&value, &segment))
}

fn step(value: &Value, segment: &str) -> Value {
    let found = match value {
        Value::Object(fields) => fields.get(segment),
        Value::Array(items) => match segment.parse::<usize>() {
            Ok(index) => items.get(index),
            Err(_) => items.iter().find(|item| matches(item, segment)),
        },
        Value::String(text) => {
            return serde_json::from_str::<Value>(text).map_or(Value::Null, |value| step(&value, segment));
        }
        _ => None,
    };
    found.cloned().unwrap_or(Value::Null)
}

fn matches(item: &Value, segment: &str) -> bool {
    match item {
        Value::String(text) => text.starts_with(segment),
        item => item["name"] == segment,
    }
}
