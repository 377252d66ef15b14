//! From a resource to its token and its status. [`resolve`], [`want`] and [`status`] decide; [`sources`] keeps what is
//! known of each resource's token, [`live`] one that an authorization server is asked for, and [`Reconciler`] publishes
//! what that has and writes the status.

mod act;
mod events;
mod live;
mod obtained;
mod resolve;
mod sources;
mod status;
mod want;

pub use act::{Reconciler, Triggers, run};
