//! From a resource to its token and its status. [`resolve`], [`want`] and [`status`] decide; [`Reconciler`] acts:
//! it keeps a token source for each resource, publishes what that has and writes the status.

mod act;
mod events;
mod resolve;
mod status;
mod supported;
mod want;

pub use act::{Reconciler, Triggers, run};
