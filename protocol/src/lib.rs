//! What the operator and the sidecar say to each other: the messages of the sync stream ([`sync`]) and the
//! contract of the injected pod ([`pod`]). Types and names only; nothing here does anything.

pub mod pod;
pub mod sync;
