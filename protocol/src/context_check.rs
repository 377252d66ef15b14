//! Context check: how `kubectl mcp-auth doctor` learns whether what a user sends arrives at MCP servers. It calls LiteLLM as
//! a user whose allow-listed cookies and headers all have one [`CheckValue`], and asks the sidecar on its health port
//! ([`CONTEXT_CHECK`](crate::pod::health::CONTEXT_CHECK)) in which requests to MCP servers that value was.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the value begins with, so that nothing of a real user can be asked for.
const PREFIX: &str = "mcpauth-check-";
/// Random bytes, written in hexadecimal digits.
const RANDOM_BYTES: usize = 16;

/// A value that stands for a user's session in one check. It is no secret: it opens nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckValue(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is no value of a check: mcpauth-check- and 32 hexadecimal digits in lower case")]
pub struct CheckValueError;

/// The requests with the value of a check, in their order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SentRequests {
    pub requests: Vec<SentRequest>,
}

/// A request as it was sent to an MCP server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SentRequest {
    /// Its number in the sidecar's log and in its audit line.
    pub request: String,
    /// LiteLLM's name of the MCP server.
    pub server: String,
    /// Of its first JSON-RPC message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Names of the cookies that had the value, sorted.
    pub cookies: Vec<String>,
    /// Names of the headers that had the value, sorted.
    pub headers: Vec<String>,
    /// Whether it had an access token.
    pub authorized: bool,
    /// How the MCP server answered; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl CheckValue {
    pub fn new(random: [u8; RANDOM_BYTES]) -> Self {
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{PREFIX}{digits}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckValue {
    type Err = CheckValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).ok_or(CheckValueError)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        match digits.len() == 2 * RANDOM_BYTES && digits.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err(CheckValueError),
        }
    }
}

impl fmt::Display for CheckValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_that_was_made_for_a_check_is_one() {
        let value = CheckValue::new([0xa7; RANDOM_BYTES]);
        assert_eq!(value.as_str().parse(), Ok(value.clone()));
        let upper = format!("{PREFIX}{}", "A7".repeat(RANDOM_BYTES));
        let longer = format!("{value}a7");
        for other in [
            "",
            "ada",
            "a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7",
            PREFIX,
            &upper,
            &longer,
        ] {
            assert_eq!(other.parse::<CheckValue>(), Err(CheckValueError), "{other}");
        }
    }
}
