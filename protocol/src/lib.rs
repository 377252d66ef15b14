//! The contract between operator and sidecar: the messages of the sync stream and of the token exchange
//! ([`sync`]), how large they may be ([`bounds`]), how long each side waits ([`timeouts`]), why the operator
//! refuses ([`reasons`]), what a sidecar learns of a server ([`reachability`]), the injected pod ([`pod`]), where an
//! OpenTelemetry collector is ([`otlp`]), what is logged ([`log`]), which headers never say who a user is
//! ([`header_denylist`]), and what a sidecar tells `doctor` of one call ([`context_check`]). Types and constants only; nothing here does anything.

pub mod bounds;
pub mod context_check;
pub mod header_denylist;
pub mod log;
pub mod otlp;
pub mod pod;
pub mod reachability;
pub mod reasons;
pub mod sync;
pub mod timeouts;
