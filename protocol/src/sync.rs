//! The sync stream: one `POST` to [`PATH`] for each sidecar, over HTTP/1.1, or HTTP/2 as sidecars of before had it, authenticated
//! by its pod-bound ServiceAccount token as bearer. Both bodies stay open and carry newline-delimited JSON, the whole state in
//! each line: [`Report`] upwards, [`Snapshot`] downwards. To a sidecar that reads deltas, lines after the first
//! may be a [`SnapshotDelta`]; to an operator that reads acknowledgements, a report may say
//! no more than [`Report::acknowledged`]. An empty line is a heartbeat: downwards, one line at least comes within
//! [`HEARTBEAT`](crate::timeouts::HEARTBEAT). Upwards it answers a [`QUESTION`], in whose place a heartbeat is for a sidecar that
//! has said nothing for minutes and names [`Capability::Answers`].
//!
//! A sidecar may ask for [`UPGRADE`] in its request (RFC 9110 section 7.8, HTTP/1.1 only), whose body is then its first report and
//! ends. An operator that knows of it answers 101, and from then on the same lines are all that the connection carries, both
//! ways: thousands of streams then hold none of HTTP's buffers. One that does not answers 200, and ends the stream where the body
//! ended: the sidecar then asks again without, until a snapshot names [`Capability::Upgrade`].
//!
//! Operator and sidecar may be one minor version apart. Fields that one of them does not know are ignored, and
//! what it cannot read costs the entry that it stands in and never the whole line ([`lenient`]).

mod credential;
mod delta;
mod exchange;
mod lenient;
mod litellm;
pub mod notices;
mod report;
mod route;
mod snapshot;
#[cfg(test)]
mod tests;

pub use credential::Credential;
pub use delta::{SnapshotDelta, SnapshotLine};
pub use exchange::{EXCHANGE_PATH, ExchangeRequest, ExchangeResponse};
pub use litellm::LiteLlmSettings;
pub use report::{Capability, Pod, Problem, RejectedToken, RejectionCause, Report};
pub use route::{
    Audit, AuditUser, JwtVerification, Route, SubjectTokenSource, Transport, UserContext, VerificationKey,
};
pub use snapshot::{
    ClientCertificate, DeclinedRefresh, EgressProxy, Server, ServerAddresses, Snapshot, UnreadablePart,
    UnreadableServer,
};

/// Path of the sync endpoint.
pub const PATH: &str = "/v1/sync";
/// Protocol of the `Upgrade` field: a stream of these lines without HTTP around them.
pub const UPGRADE: &str = "mcpauth-sync";
/// The line that a sidecar answers with an empty one.
pub const QUESTION: &str = "?";
/// Content type of both bodies.
pub const CONTENT_TYPE: &str = "application/x-ndjson";
