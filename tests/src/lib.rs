//! What the tests against a real control plane share. They know the product by its resource, its protocol and
//! its programs, never by the insides of operator or sidecar.

pub mod admission_review;
pub mod authority;
pub mod chart;
pub mod documents;
pub mod jwt;
pub mod keycloak;
pub mod keys;
pub mod kubelet;
pub mod oauth;
pub mod one_machine;
pub mod process;
pub mod recorder;
pub mod registration;
pub mod replica;
pub mod resource;
pub mod seen;
pub mod servers;
pub mod sidecar;
pub mod sidecar_process;
pub mod spring;
pub mod token_endpoint;
pub mod token_reviews;
pub mod upgraded_stream;
pub mod wait;
pub mod web;
pub mod world;

/// A setting that the script around the tests makes.
pub fn setting(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests by `make test-api` or `make e2e`"))
}
