//! References: the keys of Secrets and ConfigMaps that a spec names ([`needed`]), and their values, from
//! wherever they were read ([`resolve`]).

mod needed;
mod resolve;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretSlice;

pub use needed::{Kind, Reference, fields, needed};
pub use resolve::{resolve_printable, resolve_reference};

/// Label of a Secret by which its owner lets resources of the namespace use it, with the value `true`.
pub const CONSENT_LABEL: &str = "mcpauth.dev/allow";

/// What is known of an object.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// Its first answer is on the way.
    Unknown,
    NotFound,
    /// The operator may not read it.
    Forbidden {
        /// The command by which somebody who may do so lets it, where there is one.
        grant: Option<Arc<str>>,
    },
    /// It has no label by which its owner lets resources use it, and the operator demands one. Nothing of it is known.
    NotConsented,
    Found(Arc<Data>),
}

/// The values of an object, by key.
pub type Data = BTreeMap<String, SecretSlice<u8>>;
