//! `FORWARDED_ALLOW_IPS`, the proxies whose `X-Forwarded-` headers LiteLLM's server (uvicorn) trusts. From behind
//! the sidecar it has to trust loopback as well, and the sidecar applies the list to who connects to it.

use k8s_openapi::api::core::v1::{Container, EnvVar};
use mcp_auth_protocol::pod::{DEFAULT_FORWARDED_ALLOW_IPS, env};

use super::command_line::command_words;
use super::environment::Environment;
use super::environment_entries::copied;
use super::image::Image;

pub(super) const FORWARDED_ALLOW_IPS: &str = "FORWARDED_ALLOW_IPS";
const LOOPBACK: &str = "127.0.0.1";

/// The list of LiteLLM's container as a variable of the sidecar's. `None` where it is not set, or where the pod does
/// not show it.
pub(super) fn sidecar_variable(container: &Container) -> Option<EnvVar> {
    copied(container, FORWARDED_ALLOW_IPS, env::FORWARDED_ALLOW_IPS)
}

/// A list for a container that may have one from `envFrom`, which an entry of the container's would hide: a reference to
/// it, of which the kubelet leaves the text where there is none. uvicorn trusts nobody by that text. gunicorn refuses it,
/// so that where gunicorn may run the list is uvicorn's default, and the one from `envFrom` stays hidden.
pub(super) fn instead_of_hidden(container: &Container) -> String {
    if may_run_gunicorn(container) {
        DEFAULT_FORWARDED_ALLOW_IPS.to_owned()
    } else {
        format!("{DEFAULT_FORWARDED_ALLOW_IPS},$({FORWARDED_ALLOW_IPS})")
    }
}

/// Whether the list that the container may have from `envFrom` is hidden by injection.
pub(super) fn hides(container: &Container) -> bool {
    let environment = Environment::from_container(container);
    environment.may_come_from_env_from(FORWARDED_ALLOW_IPS) && may_run_gunicorn(container)
}

fn may_run_gunicorn(container: &Container) -> bool {
    let words = command_words(container, &Environment::from_container(container));
    if words.is_empty() {
        return !Image::of(container).is_official();
    }
    let is_gunicorn = |word: &Option<String>| word.as_ref().is_none_or(|word| word.contains("gunicorn"));
    words.iter().any(is_gunicorn)
}

/// A list with loopback; `None` if it is in it.
pub(super) fn with_loopback(list: &str) -> Option<String> {
    let parts: Vec<&str> = list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    if parts == ["*"] || parts.contains(&LOOPBACK) {
        return None;
    }
    Some([&parts[..], &[LOOPBACK]].concat().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(env: &str) -> Container {
        serde_saphyr::from_str(&format!("{{name: litellm, env: {env}}}")).unwrap()
    }

    #[test]
    fn loopback_is_added_to_a_list_that_lacks_it() {
        assert_eq!(
            with_loopback("10.0.0.0/8").as_deref(),
            Some("10.0.0.0/8,127.0.0.1")
        );
        assert_eq!(with_loopback("").as_deref(), Some("127.0.0.1"));
        assert_eq!(
            with_loopback("$(FORWARDED_ALLOW_IPS)").as_deref(),
            Some("$(FORWARDED_ALLOW_IPS),127.0.0.1")
        );
        for complete in ["*", "10.0.0.9, 127.0.0.1"] {
            assert_eq!(with_loopback(complete), None);
        }
    }

    #[test]
    fn a_list_from_env_from_is_kept_unless_gunicorn_may_read_it() {
        let hides = |rest: &str| {
            let container = format!("{{name: litellm, envFrom: [{{configMapRef: {{name: net}}}}], {rest}}}");
            hides(&serde_saphyr::from_str(&container).unwrap())
        };
        assert!(!hides("args: [--port, '4000']"));
        assert!(!hides("image: ghcr.io/berriai/litellm:v1.109.1"));
        assert!(hides("args: [--run_gunicorn]") && hides("image: registry.example/own:1"));
        assert!(!hides(
            "args: [--run_gunicorn], env: [{name: FORWARDED_ALLOW_IPS, value: '*'}]"
        ));
    }

    #[test]
    fn the_sidecar_gets_what_litellm_was_given() {
        let variable = |env| sidecar_variable(&container(env));
        assert_eq!(variable("[]"), None);
        let literal = "[{name: NET, value: 10.0.0.0/8}, {name: FORWARDED_ALLOW_IPS, value: $(NET)}]";
        let EnvVar { name, value, .. } = variable(literal).unwrap();
        assert_eq!(
            (name.as_str(), value.as_deref()),
            ("MCPAUTH_FORWARDED_ALLOW_IPS", Some("10.0.0.0/8"))
        );
        let from_key =
            "[{name: FORWARDED_ALLOW_IPS, valueFrom: {configMapKeyRef: {name: net, key: proxies}}}]";
        let EnvVar { name, value_from, .. } = variable(from_key).unwrap();
        assert_eq!(name, "MCPAUTH_FORWARDED_ALLOW_IPS");
        assert_eq!(value_from.unwrap().config_map_key_ref.unwrap().key, "proxies");
        assert_eq!(variable("[{name: FORWARDED_ALLOW_IPS, value: $(HIDDEN)}]"), None);
    }
}
