//! What users' calls, tokens and statuses go through while replicas of the operator, its lease or the API server
//! fail. Each test has two replicas, two real sidecars that call an MCP server all the time, and a line of the table
//! in docs/operator.md. They run one after another: the API server is theirs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod calls;
mod deleted;
mod fleet;
mod one_way_out;
mod policy;
mod refusals;
mod reviews;
mod rows;
mod service;
mod settings;
mod skew;
mod status_writes;
mod tenant_budgets;
mod tenant_renewals;
mod tenants;
mod tests;
mod users;
