//! The operator against a real kube-apiserver and a real OAuth server. Pods are objects only: nothing runs them.
//! `make test-api` starts all that these tests need.

mod admission;
mod injection;
mod reconcile;
mod sync;
