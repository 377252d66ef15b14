//! What the operator and the sidecar say to each other: the messages of the sync stream ([`sync`]), the contract of the
//! injected pod ([`pod`]), and what neither takes for a user's identity ([`identity`]). Types and names only; nothing here
//! does anything.

pub mod identity;
pub mod pod;
pub mod sync;
