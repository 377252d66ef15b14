//! The operator against a real kube-apiserver and real OAuth servers. Pods are objects only: nothing runs
//! them. `make test-api` starts all that these tests need.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod abuse;
mod admission;
mod assertions;
mod certificates;
mod cli;
mod commands;
mod discovery;
mod documents;
mod drain;
mod exchange;
mod failover;
mod github;
mod in_use;
mod injection;
mod malformed;
mod managed_keys;
mod methods;
mod one_machine;
mod policies;
mod providers;
mod proxies;
mod reachability;
mod reconcile;
mod restarts;
mod reviews;
mod rotation;
mod shared_tokens;
mod sync;
mod told;
mod tool_commands;
mod upgrades;

/// Held to write by the test that takes the operator's certificate Secret away, and to read by those that look whether
/// it is there.
static CERTIFICATE_SECRET: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
