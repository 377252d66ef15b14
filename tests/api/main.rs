//! The operator against a real kube-apiserver and a real OAuth server. Pods are objects only: nothing runs them.
//! `make test-api` starts all that these tests need.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod admission;
mod injection;
mod methods;
mod reconcile;
mod sync;
