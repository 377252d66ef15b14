//! The headers of a request to an MCP server: those that LiteLLM sent, without those that are not meant for
//! the server, and with this server's part of the user context. The credential is added by the access token.

use http::header::{ACCEPT_ENCODING, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use mcp_auth_protocol::sync::{SubjectTokenSource, Transport};

use crate::http::hop_by_hop;
use crate::proxy::header_denylist::is_not_for_servers;
use crate::proxy::routes::{SessionId, UsableServer};
use crate::proxy::user_context::{Allowlist, Context, names_user};

/// This server's part of a user context, ready to send.
#[derive(Debug, Default, Hash, PartialEq)]
pub struct UserPart {
    cookie: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    names_user: bool,
}

impl UserPart {
    pub fn from_context(context: Option<&Context>, allowed: &Allowlist) -> Self {
        let Some(context) = context else {
            return Self::default();
        };
        let mut cookie = Vec::with_capacity(context.size());
        let mut is_named = false;
        for (name, value) in context.cookies().filter(|(name, _)| allowed.cookie(name)) {
            if !cookie.is_empty() {
                cookie.extend_from_slice(b"; ");
            }
            cookie.extend_from_slice(name);
            cookie.push(b'=');
            cookie.extend_from_slice(value);
            is_named |= names_user(value);
        }
        let mut headers = Vec::new();
        for name in allowed.headers() {
            let value = context
                .headers()
                .find(|(header, _)| *header == name.as_str().as_bytes());
            is_named |= value.is_some_and(|(_, value)| names_user(value));
            if let Some(value) = value.and_then(|(_, value)| sensitive(value.to_vec())) {
                headers.push((name.clone(), value));
            }
        }
        Self {
            cookie: (!cookie.is_empty()).then(|| sensitive(cookie)).flatten(),
            headers,
            names_user: is_named,
        }
    }

    /// Whether any of it says who the user is: a cookie without a value does not.
    pub fn names_user(&self) -> bool {
        self.names_user
    }

    pub fn is_empty(&self) -> bool {
        self.cookie.is_none() && self.headers.is_empty()
    }
}

/// Prepares the headers of a request to `server`, but for those that authenticate. `session` is what names the session that it
/// is in.
pub fn prepare_request(
    headers: &mut HeaderMap,
    server: &UsableServer,
    user: &UserPart,
    session: Option<&SessionId>,
) {
    hop_by_hop::strip_request(headers, |name| is_dropped(name, server));
    headers.insert(HOST, server.target.host.clone());
    let affinity = session.and_then(|session| server.sessions.affinity_cookies(session));
    if let Some(cookie) = join_cookies(user.cookie.as_ref(), affinity) {
        headers.insert(COOKIE, cookie);
    }
    for (name, value) in &user.headers {
        headers.insert(name.clone(), value.clone());
    }
    if server.transport == Transport::Sse {
        // A compressed event stream could not be rewritten.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// One field for the user's cookies and those of the load balancer before the server.
fn join_cookies(user: Option<&HeaderValue>, affinity: Option<Vec<u8>>) -> Option<HeaderValue> {
    match (user, affinity) {
        (user, None) => user.cloned(),
        (None, Some(affinity)) => sensitive(affinity),
        (Some(user), Some(affinity)) => sensitive([user.as_bytes(), b"; ", &affinity].concat()),
    }
}

/// Headers that must not come from LiteLLM: those that are not for servers, and those that only the sidecar
/// may set. Many servers (CGI, WSGI) take `_` in a name for `-`.
fn is_dropped(name: &str, server: &UsableServer) -> bool {
    let exchanged = match &server.exchange {
        Some(SubjectTokenSource::Header(name)) => Some(name.as_str()),
        Some(SubjectTokenSource::Cookie(_)) | None => None,
    };
    // LiteLLM would pass on a header of that name that a request's body or an `x-mcp-` header states.
    if is_not_for_servers(name) || server.allowed.header(name.as_bytes()) || exchanged == Some(name) {
        return true;
    }
    // Almost no name holds a `_`. Without an end in between: many bytes at a time are compared at once.
    if !name.bytes().fold(false, |found, byte| found | (byte == b'_')) {
        return false;
    }
    let with_dashes = |text: &str| text.replace('_', "-");
    let canonical = with_dashes(name);
    let allowed = server.allowed.headers().iter().map(HeaderName::as_str);
    is_not_for_servers(&canonical) || allowed.chain(exchanged).any(|own| with_dashes(own) == canonical)
}

/// Removes from an answer the headers that must not reach LiteLLM: it must neither keep cookies of the server
/// nor try to authenticate.
pub fn strip_response(headers: &mut HeaderMap) {
    hop_by_hop::strip_response(headers, |name| {
        name == "set-cookie" || name == "www-authenticate" || name == "dpop-nonce"
    });
}

fn sensitive(value: Vec<u8>) -> Option<HeaderValue> {
    // Cannot fail: a context holds no control characters.
    let mut value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use mcp_auth_protocol::header_denylist::DENIED_HEADERS;

    use super::*;
    use crate::proxy::outbound::tests::usable;
    use crate::proxy::user_context::gather;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn exactly_what_is_meant_for_the_server_arrives() {
        let user = map(&[
            ("cookie", "session_id=S-a; csrf=c; token=ui"),
            ("x-forwarded-user", "ada"),
        ]);
        let union = Allowlist::new(
            ["session_id", "csrf", "other"],
            [HeaderName::from_static("x-forwarded-user")],
        );
        let context = gather(&user, &union).unwrap().context;
        let mut headers = map(&[
            ("host", "127.0.0.1:16481"),
            ("authorization", "Bearer sk-user"),
            ("authorization", "Bearer second"),
            ("dpop", "proof-of-the-user"),
            ("proxy-authorization", "Basic x"),
            ("x-litellm-api-key", "sk-user"),
            ("api-key", "sk-user"),
            ("cookie", "token=ui"),
            ("mcpauth-context", "sealed"),
            ("mcpauth-other", "x"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-user", "eve"),
            ("forwarded", "for=10.0.0.9"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-06-18"),
            ("last-event-id", "7"),
            ("accept", "application/json, text/event-stream"),
        ]);
        usable(
            "https://tools.example.com:8443/mcp",
            Transport::StreamableHttp,
            |server| {
                let part = UserPart::from_context(context.as_ref(), &server.allowed);
                prepare_request(&mut headers, server, &part, None);
            },
        );
        let expected = map(&[
            ("host", "tools.example.com:8443"),
            ("cookie", "session_id=S-a"),
            ("x-forwarded-user", "ada"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-06-18"),
            ("last-event-id", "7"),
            ("accept", "application/json, text/event-stream"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn of_the_header_denylist_nothing_arrives_but_what_http_and_mcp_need() {
        const TRANSPORT: [&str; 6] = [
            "accept",
            "accept-encoding",
            "host",
            "last-event-id",
            "origin",
            "trailer",
        ];
        let names = DENIED_HEADERS.map(str::to_owned);
        let others = [
            "x-original-url",
            "x-forwarded-x",
            "proxy-x",
            "sec-websocket-key",
            "mcpauth-x",
        ];
        let mut headers: HeaderMap = names
            .into_iter()
            .chain(others.map(str::to_owned))
            .map(|name| (HeaderName::try_from(name).unwrap(), HeaderValue::from_static("x")))
            .collect();
        usable(
            "https://tools.example.com/mcp",
            Transport::StreamableHttp,
            |server| {
                prepare_request(&mut headers, server, &UserPart::default(), None);
            },
        );
        // A body of unknown length stays one.
        headers.remove("transfer-encoding");
        let mut arrived: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        arrived.sort_unstable();
        assert_eq!(arrived, TRANSPORT);
    }

    #[test]
    fn no_header_arrives_that_a_server_may_take_for_one_of_ours() {
        let mut headers = map(&[
            ("x_forwarded_user", "eve"),
            ("x-forwarded_user", "eve"),
            ("x_forwarded-for", "10.0.0.9"),
            ("x_api_key", "sk-user"),
            ("mcpauth_context", "forged"),
            ("x_team_id", "7"),
        ]);
        usable(
            "https://tools.example.com/mcp",
            Transport::StreamableHttp,
            |server| {
                prepare_request(&mut headers, server, &UserPart::default(), None);
            },
        );
        assert_eq!(headers, map(&[("x_team_id", "7"), ("host", "tools.example.com")]));
    }

    #[test]
    fn a_cookie_without_a_value_goes_on_and_names_nobody() {
        let part = |cookie: &'static str| {
            let allowed = Allowlist::new(["session_id", "csrf"], []);
            let context = gather(&map(&[("cookie", cookie)]), &allowed).unwrap().context;
            UserPart::from_context(context.as_ref(), &allowed)
        };
        for (cookie, names_user) in [
            ("session_id=", false),
            ("session_id=\"\"", false),
            ("csrf=; session_id=S-a", true),
        ] {
            let part = part(cookie);
            assert_eq!(part.cookie.as_ref().unwrap(), cookie);
            assert_eq!(part.names_user(), names_user, "{cookie}");
        }
    }

    #[test]
    fn a_context_for_other_servers_is_none_for_this_one() {
        let context = gather(&map(&[("cookie", "csrf=c")]), &Allowlist::new(["csrf"], []))
            .unwrap()
            .context;
        assert!(UserPart::from_context(context.as_ref(), &Allowlist::new(["session_id"], [])).is_empty());
        assert!(UserPart::from_context(None, &Allowlist::new(["session_id"], [])).is_empty());
    }

    #[test]
    fn cookies_and_challenges_of_the_server_stay_with_us() {
        let mut headers = map(&[
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
            ("www-authenticate", "Bearer"),
            ("dpop-nonce", "n"),
            ("keep-alive", "timeout=5"),
            ("mcp-session-id", "s"),
        ]);
        strip_response(&mut headers);
        assert_eq!(headers, map(&[("mcp-session-id", "s")]));
    }
}
