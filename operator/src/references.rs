//! The Secrets and ConfigMaps that resources refer to. Each is watched by its name, and no other object of
//! the cluster is read: [`needed`] says which a spec refers to, [`watch`] keeps them.

mod needed;
mod watch;

pub use needed::{Kind, Reference, fields, needed};
pub use watch::{Lookup, References};
