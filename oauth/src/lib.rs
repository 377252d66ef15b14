//! The OAuth2 machine client: from a registration to a token that is always fresh. [`Client`] makes one token
//! request; [`TokenSource`] keeps one token for as long as it lives, by what [`Schedule`] decides.
//!
//! It knows nothing of Kubernetes and of proxies.

mod answer;
mod client;
mod clock;
mod error;
mod schedule;
mod source;

pub use answer::Token;
pub use client::{Client, ClientAuthentication, Registration, TokenEndpoint};
pub use clock::Clock;
pub use error::Error;
pub use schedule::{InvalidRefreshBefore, RefreshBefore, Schedule};
pub use source::{Failure, State, TokenSource};
