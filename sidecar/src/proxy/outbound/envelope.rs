//! Envelope of a JSON-RPC message that is too long to be kept: its identifier and its method, found as its body is read past.
//! Clients state the identifier last (the Python SDK) or first, so that all of the body has to be read for it.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

/// Longest body that is read past for an error's sake, and for how long. LiteLLM has all of it when it begins to send.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest name or value that is kept.
const MAX_TOKEN_BYTES: usize = 256;

#[derive(Debug, Default, PartialEq)]
pub struct Envelope {
    /// `null` where there is none.
    pub id: Value,
    pub method: Option<String>,
}

/// Reads the rest of a body after its beginning. `None` where it is not one message, or does not come to its end in time.
pub async fn read_envelope(first: &[u8], rest: Incoming) -> Option<Envelope> {
    let mut scanner = EnvelopeScanner::default();
    scanner.push(first);
    timeout(READ_TIMEOUT, scan(scanner, rest)).await.ok()?
}

async fn scan(mut scanner: EnvelopeScanner, mut rest: Incoming) -> Option<Envelope> {
    let mut read = 0;
    while let Some(frame) = rest.frame().await {
        let Ok(chunk) = frame.ok()?.into_data() else {
            continue;
        };
        read += chunk.len();
        if read > MAX_BODY_BYTES {
            return None;
        }
        scanner.push(&chunk);
    }
    scanner.finish()
}

/// Looks at the members of the outermost object, and over what is within them.
#[derive(Default)]
struct EnvelopeScanner {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The name of the member whose value comes; `None` where a name comes.
    name: Option<Vec<u8>>,
    token: Vec<u8>,
    is_token_cut: bool,
    has_ended: bool,
    /// It is not one message, or states a member twice, of which servers take this one or that.
    is_unclear: bool,
    id: Option<Value>,
    method: Option<String>,
}

impl EnvelopeScanner {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push_byte(*byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        if self.in_string {
            self.keep(byte);
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.has_ended || self.depth == 0 && byte != b'{' => self.is_unclear = true,
            b'"' => {
                self.in_string = true;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.is_token_cut |= self.depth == 1;
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.end_member();
                    self.has_ended = true;
                }
            }
            b',' if self.depth == 1 => self.end_member(),
            b':' if self.depth == 1 => {
                self.is_unclear |= self.name.is_some();
                self.name = Some(std::mem::take(&mut self.token));
                self.is_token_cut = false;
            }
            _ => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth != 1 {
            return;
        }
        match self.token.len() < MAX_TOKEN_BYTES {
            true => self.token.push(byte),
            false => self.is_token_cut = true,
        }
    }

    fn end_member(&mut self) {
        let (name, token) = (self.name.take(), std::mem::take(&mut self.token));
        let value =
            (!std::mem::take(&mut self.is_token_cut)).then(|| serde_json::from_slice::<Value>(&token));
        let value = value.and_then(Result::ok);
        let name = name.and_then(|name| serde_json::from_slice::<String>(&name).ok());
        let is_second = match name.as_deref() {
            Some("id") => self.id.replace(value.unwrap_or_default()).is_some(),
            Some("method") => {
                let method = value.and_then(|value| Some(value.as_str()?.to_owned()));
                self.method.replace(method.unwrap_or_default()).is_some()
            }
            _ => false,
        };
        self.is_unclear |= is_second;
    }

    fn finish(self) -> Option<Envelope> {
        (self.has_ended && !self.is_unclear).then(|| Envelope {
            id: self.id.unwrap_or_default(),
            method: self.method,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scanned(text: &str, chunk: usize) -> Option<Envelope> {
        let mut scanner = EnvelopeScanner::default();
        text.as_bytes()
            .chunks(chunk)
            .for_each(|chunk| scanner.push(chunk));
        scanner.finish()
    }

    #[test]
    fn identifier_and_method_are_found_wherever_they_stand_and_however_the_body_is_cut() {
        let long = "x".repeat(70_000);
        let params = format!(r#"{{"id":7,"method":"other","text":"{long}\"}}{{,:","list":[{{"id":8}}]}}"#);
        for text in [
            format!(r#"{{"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{params}}}"#),
            format!(
                " {{ \"method\" : \"tools\\/call\", \"params\":{params},\n\"jsonrpc\":\"2.0\",\"id\":\"a\\\"1\" }} "
            ),
        ] {
            for chunk in [1, 3, 1000, text.len()] {
                let envelope = scanned(&text, chunk).unwrap();
                assert_eq!(envelope.id, json!("a\"1"));
                assert_eq!(envelope.method.as_deref(), Some("tools/call"));
            }
        }
    }

    #[test]
    fn what_is_not_one_whole_message_has_none() {
        for text in [
            "",
            "{",
            r#"{"id":1"#,
            r#"[{"id":1,"method":"tools/call"}]"#,
            r#"{"id":1,"id":2}"#,
            r#"{"method":"a","m\u0065thod":"b"}"#,
            r#"{"id":1} {"id":2}"#,
            r#"{"id":1}}"#,
            "}",
            "x",
        ] {
            assert_eq!(scanned(text, 1), None, "{text}");
        }
        for (text, id) in [
            (r#"{"id":12,"method":"a"}"#, json!(12)),
            (r#"{"id":{"id":1}}"#, Value::Null),
            ("{}", Value::Null),
        ] {
            assert_eq!(scanned(text, 1).unwrap().id, id, "{text}");
        }
    }
}
