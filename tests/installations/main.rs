//! The operator with the arguments and the rights that the chart gives it, in modes other than the default: what Helm
//! renders is applied to a real API server, and the operator runs beside it as the ServiceAccount that was made.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod cert_manager;
mod installation;
mod not_listed;
mod own_namespace;
mod secrets;
mod trust_bundle;
