//! From a resource to its token and its status. [`resolve`], [`want`] and [`status`] decide; [`sources`] keeps a token
//! source for each resource, and [`Reconciler`] publishes what that has and writes the status.

mod act;
mod events;
mod resolve;
mod sources;
mod status;
mod supported;
mod want;

pub use act::{Reconciler, Triggers, run};
