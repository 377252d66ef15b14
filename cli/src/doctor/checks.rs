//! The checks, in the order in which one thing stands on another. Each is a pure function of the facts.

mod calls;
mod certificates;
mod installation;
mod namespaces;
mod pods;
mod resources;
mod selectors;
mod servers;
mod ways_out;

use super::facts::Facts;
use super::finding::Finding;

type Check = fn(&Facts) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    installation::definition,
    installation::webhook_configuration,
    installation::operator,
    installation::versions,
    certificates::certificates,
    installation::rights,
    namespaces::opted_in,
    namespaces::webhook_call,
    namespaces::watched,
    resources::readable,
    selectors::stored_default,
    resources::references,
    resources::secrets_resolved,
    resources::token_issued,
    resources::authorization_server,
    resources::claims,
    pods::sidecars_synced,
    pods::injected,
    servers::reachable,
    calls::called_through_litellm,
];

pub fn all(facts: &Facts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).collect()
}

#[cfg(test)]
mod tests;
