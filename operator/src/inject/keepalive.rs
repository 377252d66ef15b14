//! How long connections without a request are kept: LiteLLM's setting, which the sidecar has to know on either side,
//! and that of the pod's annotation, which is for users' connections alone.

use k8s_openapi::api::core::v1::{Container, EnvVar};
use mcp_auth_protocol::pod::env;

use super::command_line::{command_words, flag};
use super::environment::Environment;
use super::environment_entries::{copied, literal};

const OPTION: &str = "--keepalive_timeout";
const VARIABLE: &str = "KEEPALIVE_TIMEOUT";

/// Variables of the sidecar's. A value that only the kubelet knows is handed on unseen where the pod refers to it.
pub(super) fn sidecar_variables(container: &Container, annotated: Option<u32>) -> Vec<EnvVar> {
    let environment = Environment::from_container(container);
    let words = command_words(container, &environment);
    let name = env::LITELLM_KEEPALIVE_SECONDS;
    let litellm = match flag(&words, &[OPTION]) {
        Some(Some(seconds)) => seconds
            .parse::<u32>()
            .ok()
            .map(|seconds| literal(name, &seconds.to_string())),
        Some(None) => None,
        None => copied(container, VARIABLE, name),
    };
    let annotated = annotated.map(|seconds| literal(env::KEEPALIVE_SECONDS, &seconds.to_string()));
    litellm.into_iter().chain(annotated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(container: &str, annotated: Option<u32>) -> Vec<(String, Option<String>)> {
        let container: Container = serde_saphyr::from_str(container).unwrap();
        let variables = sidecar_variables(&container, annotated);
        variables
            .into_iter()
            .map(|variable| (variable.name, variable.value))
            .collect()
    }

    #[test]
    fn the_option_counts_more_than_the_variable_and_the_annotation_is_handed_on() {
        let litellm = |value: &str| vec![(env::LITELLM_KEEPALIVE_SECONDS.to_owned(), Some(value.to_owned()))];
        let option =
            "{name: l, args: [--keepalive_timeout, '75'], env: [{name: KEEPALIVE_TIMEOUT, value: '9'}]}";
        assert_eq!(variables(option, None), litellm("75"));
        assert_eq!(
            variables("{name: l, args: ['--keepalive_timeout=620']}", None),
            litellm("620")
        );
        let variable = "{name: l, env: [{name: KEEPALIVE_TIMEOUT, value: '9'}]}";
        assert_eq!(variables(variable, None), litellm("9"));
        assert_eq!(variables("{name: l}", None), []);
        assert_eq!(
            variables("{name: l, args: [--keepalive_timeout, soon]}", None),
            []
        );
        assert_eq!(
            variables("{name: l}", Some(90)),
            [(env::KEEPALIVE_SECONDS.to_owned(), Some("90".to_owned()))]
        );
    }

    #[test]
    fn a_value_that_the_pod_refers_to_is_referred_to() {
        let hidden = "{name: l, env: [{name: KEEPALIVE_TIMEOUT, \
                      valueFrom: {configMapKeyRef: {name: c, key: k}}}]}";
        let container: Container = serde_saphyr::from_str(hidden).unwrap();
        let variables = sidecar_variables(&container, None);
        assert_eq!(variables[0].name, env::LITELLM_KEEPALIVE_SECONDS);
        assert!(
            variables[0]
                .value_from
                .as_ref()
                .unwrap()
                .config_map_key_ref
                .is_some()
        );
    }
}
