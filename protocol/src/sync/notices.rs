//! What a sidecar may tell of in [`Report::notices`](super::Report::notices): a closed set of
//! [`Problem::reason`](super::Problem::reason), which the operator counts by.

/// An allow-listed cookie is in none of many requests. It may be as it should be: not every user has every cookie.
pub const COOKIE_NEVER_ARRIVED: &str = "CookieNeverArrived";
/// LiteLLM's own configuration says something else of a server than its resource.
pub const CONFIGURATION_DIFFERS: &str = "ConfigurationDiffers";
/// LiteLLM's own configuration has a server's URL under another name.
pub const SERVER_UNDER_OTHER_NAME: &str = "ServerUnderOtherName";
/// A header of `static_headers` does not arrive.
pub const STATIC_HEADER_DROPPED: &str = "StaticHeaderDropped";
/// A header of clients for an access group does not reach servers of it that no resource protects, since it has others too.
pub const GROUP_HEADERS_DROPPED: &str = "GroupHeadersDropped";
/// By LiteLLM's settings clients that state no address are external ones behind the sidecar.
pub const CLIENTS_COUNT_AS_EXTERNAL: &str = "ClientsCountAsExternal";

/// LiteLLM answers tool calls for a server, and none of them comes to the sidecar.
pub const CALLS_PAST_SIDECAR: &str = "CallsPastSidecar";

/// An authority of `spec.server.tls.caBundle` is left out, as no signature can be verified by its key.
pub const AUTHORITY_UNUSABLE: &str = "AuthorityUnusable";
/// Answers of the MCP server over HTTP/2 were malformed, and it is asked over HTTP/1.1 for a while.
pub const HTTP2_MALFORMED: &str = "Http2Malformed";

/// Those that want attention, what weighs most first: calls without a token, then those without a header, then what may be
/// meant.
pub const WARNINGS: [&str; 8] = [
    CALLS_PAST_SIDECAR,
    SERVER_UNDER_OTHER_NAME,
    STATIC_HEADER_DROPPED,
    GROUP_HEADERS_DROPPED,
    CONFIGURATION_DIFFERS,
    AUTHORITY_UNUSABLE,
    HTTP2_MALFORMED,
    CLIENTS_COUNT_AS_EXTERNAL,
];

/// The place of a notice among those, for who can tell one alone. One that is not known comes last.
pub fn rank(reason: &str) -> usize {
    let place = WARNINGS.iter().position(|warning| *warning == reason);
    place.unwrap_or(WARNINGS.len())
}
