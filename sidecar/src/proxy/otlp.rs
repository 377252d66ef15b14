//! OTLP exporter: records for an OpenTelemetry collector, in the JSON of OTLP over HTTP. A bounded [`queue`] keeps them, and
//! a thread of its own sends them in batches ([`exporter`], [`client`]) and tries again for a bounded time. Where records
//! come faster than the collector takes them, or it takes none, they are dropped and counted; nothing ever waits for it.
//!
//! [`encoding`] has as much of the format as is used here; `docs/adr` says why it is ours.

mod args;
mod client;
mod encoding;
mod exporter;
mod headers;
mod queue;

pub use args::{OtlpArgs, OtlpArgsError, Switch, resource};
pub use client::ClientError;
pub use encoding::{KeyValue, LogRecord, SpanRecord, hex_span_id};
pub use exporter::{ExportSettings, Exporter};
pub use headers::{OtlpHeaders, OtlpHeadersError};
pub use queue::Signal;
