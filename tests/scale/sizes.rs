//! How much of everything there is.

use serde::Serialize;

/// Each by an environment variable of `make scale`.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    pub namespaces: usize,
    /// In each of them.
    pub pods: usize,
    pub resources: usize,
    /// One more namespace, with many of both.
    pub large_pods: usize,
    pub large_resources: usize,
    /// Seconds that processor time is counted for while nothing happens.
    pub rest_seconds: usize,
    /// Tokens that are renewed one after another.
    pub renewals: usize,
}

impl Sizes {
    pub fn from_environment() -> Self {
        Self {
            namespaces: number("SCALE_NAMESPACES"),
            pods: number("SCALE_PODS"),
            resources: number("SCALE_RESOURCES"),
            large_pods: number("SCALE_LARGE_PODS"),
            large_resources: number("SCALE_LARGE_RESOURCES"),
            rest_seconds: number("SCALE_REST_SECONDS"),
            renewals: number("SCALE_RENEWALS"),
        }
    }

    pub fn all_resources(&self) -> usize {
        self.namespaces * self.resources
    }
}

fn number(name: &str) -> usize {
    let text = mcp_auth_tests::setting(name);
    let number = text.parse().ok().filter(|number| *number > 0);
    number.unwrap_or_else(|| panic!("{name} is {text:?}: it takes a whole number above 0"))
}
