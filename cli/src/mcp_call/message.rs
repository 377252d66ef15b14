//! From the body of an answer to the JSON-RPC response in it: JSON, or an event stream whose events are messages
//! (MCP, streamable HTTP).

use serde_json::Value;

/// The response to the request with this id, or what is wrong with the body.
pub fn answer_to(id: u32, body: &[u8]) -> Result<Value, String> {
    if let Ok(message) = serde_json::from_slice::<Value>(body) {
        return match message["id"] == id {
            true => Ok(message),
            false => Err("it answers another request".to_owned()),
        };
    }
    let text = std::str::from_utf8(body).map_err(|_| "it is no text".to_owned())?;
    events(text)
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .find(|message| message["id"] == id)
        .ok_or_else(|| "neither JSON nor an event stream with the response".to_owned())
}

/// The data of each event (HTML, server-sent events).
fn events(text: &str) -> Vec<String> {
    let mut events = Vec::new();
    let mut data: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        match line.strip_prefix("data:") {
            Some(value) => data.push(value.strip_prefix(' ').unwrap_or(value)),
            None if line.is_empty() && !data.is_empty() => {
                events.push(data.join("\n"));
                data.clear();
            }
            None => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_found_in_json_and_among_the_events_of_a_stream() {
        assert_eq!(answer_to(1, br#"{"id":1,"result":7}"#).unwrap()["result"], 7);
        let stream = b": hello\n\nevent: message\ndata: {\"method\":\"notifications/message\"}\n\n\
            event: message\r\ndata: {\"id\":2,\r\ndata: \"result\":8}\r\n\r\n";
        assert_eq!(answer_to(2, stream).unwrap()["result"], 8);
        assert_eq!(
            answer_to(2, b"data: {\"id\":2,\"result\":9}").unwrap()["result"],
            9
        );
    }

    #[test]
    fn what_is_no_response_is_told() {
        assert_eq!(
            answer_to(1, br#"{"id":2}"#).unwrap_err(),
            "it answers another request"
        );
        assert!(answer_to(1, b"<html>").unwrap_err().starts_with("neither JSON"));
        assert_eq!(answer_to(1, b"\xff").unwrap_err(), "it is no text");
    }
}
