//! How large a message may be in each direction, in bytes. The reader enforces the bound, and ends the stream
//! or refuses the request beyond it.

/// Longest line upwards, a [`Report`](crate::sync::Report), without its end. The operator holds one for each
/// sidecar, and what it says of a pod with hundreds of servers is far below.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;

/// Longest line downwards, a [`Snapshot`](crate::sync::Snapshot), without its end: hundreds of servers, each
/// with a token, a CA bundle and a client certificate.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;

/// Longest [`ExchangeRequest`](crate::sync::ExchangeRequest): a subject token that fits into a request
/// header, and some words around it.
pub const MAX_EXCHANGE_REQUEST_BYTES: usize = 64 * 1024;

/// Longest answer to it: a token and the key that it is bound to are a few kilobytes.
pub const MAX_EXCHANGE_RESPONSE_BYTES: usize = 256 * 1024;

/// Longest [`Problem`](crate::sync::Problem) that answers a request in place of a stream.
pub const MAX_REFUSAL_BYTES: usize = 64 * 1024;

// A refused exchange is answered by a problem as well.
const _: () = assert!(MAX_REFUSAL_BYTES <= MAX_EXCHANGE_RESPONSE_BYTES);
