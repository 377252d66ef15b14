//! The OAuth2 machine client: it turns a registration at an authorization server into a token that is always
//! valid, as far as the server lets it.
//!
//! [`Client`] makes one token request ([`request`] what is asked, [`identity`] who asks, [`call`] and [`transport`] the
//! way there, [`response`] what the answer means). [`TokenSource`] decides when to make one ([`schedule`]) and publishes
//! what came of it as [`State`]. [`UserTokens`] keeps those of users' own. Nothing here knows Kubernetes or the proxy.

mod alarm;
mod assertion;
mod breaker;
mod call;
mod certificate;
mod check;
mod client;
mod clock;
mod discovery;
mod endpoints;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod garbage;
mod identity;
mod keys;
mod policy;
mod quote;
mod refusals;
mod request;
mod resolve;
mod response;
mod revoke;
mod schedule;
mod source;
mod state;
mod step_up;
mod token;
mod transport;
mod user_tokens;

pub use assertion::{Asserting, AssertionSource, Assertions};
pub use breaker::Circuit;
pub use check::{Claims, Mismatch, Mode, TokenCheck, read as read_claims};
pub use client::{
    Client, ClientAuthentication, ClientCertificate, Grant, Registration, Secrets, ServerLocation,
    TokenExchange, TokenType,
};
pub use clock::Clock;
pub use discovery::{Attempt, Discovery, DiscoveryError, Outcome, ServerMetadata};
pub use error::{Code, ConnectFault, Error, Rejection, Shape};
pub use exchange::{Ask, Exchange, Exchanging, Issued};
pub use keys::{Algorithm, KeyError, SigningKey};
pub use policy::{InvalidRefreshBefore, Policy, RefreshBefore};
pub use resolve::Forbidden;
pub use schedule::RetryAfter;
pub use source::TokenSource;
pub use state::{Failure, State};
pub use step_up::{NoStepUp, StepUp};
pub use token::Token;
pub use transport::Limits;
pub use user_tokens::UserTokens;
