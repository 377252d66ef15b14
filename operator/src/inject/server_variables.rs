//! Options that uvicorn and granian read from the environment where their own command line starts LiteLLM: each takes
//! every option from a variable of its name.

use super::environment::{Environment, VariableValue};
use super::exec_wrapper::program_name;
use super::role::{Invocation, Role, Start};

/// The variables of a server, by what they stand for.
pub(super) struct ServerVariables {
    /// Where the server listens, on 127.0.0.1 if it is not set either.
    pub host: &'static str,
    /// A socket that no host and port replaces.
    pub own_socket: &'static [&'static str],
    pub tls: &'static [&'static str],
    /// Whether the server knows no forwarded address at all.
    pub knows_no_address: bool,
    /// A file of variables.
    pub environment_file: &'static str,
    /// By which the server believes the sidecar no address of a client, and whether it does so with any value but `false`.
    hiding_addresses: &'static [(&'static str, bool)],
}

const UVICORN: ServerVariables = ServerVariables {
    host: "UVICORN_HOST",
    own_socket: &["UVICORN_UDS", "UVICORN_FD"],
    tls: &["UVICORN_SSL_KEYFILE", "UVICORN_SSL_CERTFILE"],
    knows_no_address: false,
    environment_file: "UVICORN_ENV_FILE",
    hiding_addresses: &[
        ("UVICORN_PROXY_HEADERS", false),
        ("UVICORN_FORWARDED_ALLOW_IPS", true),
    ],
};
const GRANIAN: ServerVariables = ServerVariables {
    host: "GRANIAN_HOST",
    own_socket: &["GRANIAN_UDS"],
    tls: &["GRANIAN_SSL_KEYFILE", "GRANIAN_SSL_CERTIFICATE"],
    knows_no_address: true,
    environment_file: "GRANIAN_ENV_FILES",
    hiding_addresses: &[],
};

impl ServerVariables {
    /// Those of the server whose command line the container starts.
    pub fn of(role: Role, words: &[Option<String>]) -> Option<&'static Self> {
        if role != Role::LiteLlm(Start::Server) {
            return None;
        }
        words.iter().flatten().find_map(|word| match program_name(word) {
            "uvicorn" => Some(&UVICORN),
            "granian" => Some(&GRANIAN),
            _ => None,
        })
    }

    /// The variable by which the server takes the sidecar for the client.
    pub fn hides_addresses(&self, environment: &Environment) -> Option<&'static str> {
        let is_false = |value: &str| {
            matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "0" | "false" | "f" | "no" | "n" | "off"
            )
        };
        let hides = |name: &str, with_any_value: bool| match environment.get(name) {
            VariableValue::Literal(value) => !value.is_empty() && (with_any_value || is_false(&value)),
            VariableValue::Hidden => true,
            VariableValue::Absent => false,
        };
        let mut names = self.hiding_addresses.iter();
        names
            .find(|(name, with_any_value)| hides(name, *with_any_value))
            .map(|(name, _)| *name)
    }
}

/// Whether the server may read variables from a file, which the pod does not show.
pub(super) fn may_read_file(environment: &Environment, invocation: &Invocation) -> Option<&'static str> {
    let name = ServerVariables::of(invocation.role, &invocation.words)?.environment_file;
    match environment.get_or_hidden(name) {
        VariableValue::Absent => None,
        VariableValue::Literal(file) if file.is_empty() => None,
        VariableValue::Literal(_) | VariableValue::Hidden => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;

    use super::*;
    use crate::inject::role::invocation;

    fn parts(command: &str, env: &str) -> (Environment, Invocation) {
        let yaml = format!("{{name: c, command: [{command}], env: [{env}]}}");
        let container: Container = serde_saphyr::from_str(&yaml).unwrap();
        let environment = Environment::from_container(&container);
        let invocation = invocation(&container, &environment);
        (environment, invocation)
    }

    #[test]
    fn a_file_of_variables_counts_where_that_server_starts() {
        let uvicorn_file = "{name: UVICORN_ENV_FILE, value: /secrets/.env}";
        let granian_file = "{name: GRANIAN_ENV_FILES, value: /secrets/.env}";
        for (command, env, expected) in [
            (
                "uvicorn, 'litellm.proxy.proxy_server:app'",
                uvicorn_file,
                Some("UVICORN_ENV_FILE"),
            ),
            (
                "python, -m, uvicorn, 'litellm.proxy.proxy_server:app'",
                uvicorn_file,
                Some("UVICORN_ENV_FILE"),
            ),
            (
                "granian, 'litellm.proxy.proxy_server:app'",
                granian_file,
                Some("GRANIAN_ENV_FILES"),
            ),
            ("granian, 'litellm.proxy.proxy_server:app'", uvicorn_file, None),
            ("litellm", uvicorn_file, None),
            ("litellm, --run_granian", granian_file, None),
            (
                "uvicorn, 'litellm.proxy.proxy_server:app'",
                "{name: UVICORN_ENV_FILE, value: ''}",
                None,
            ),
        ] {
            let (environment, invocation) = parts(command, env);
            assert_eq!(
                may_read_file(&environment, &invocation),
                expected,
                "{command}, {env}"
            );
        }
    }

    #[test]
    fn addresses_are_hidden_by_the_variables_that_turn_them_off() {
        let hides = |env: &str| {
            let (environment, invocation) = parts("uvicorn, 'litellm.proxy.proxy_server:app'", env);
            ServerVariables::of(invocation.role, &invocation.words)
                .unwrap()
                .hides_addresses(&environment)
        };
        assert_eq!(
            hides("{name: UVICORN_PROXY_HEADERS, value: 'False'}"),
            Some("UVICORN_PROXY_HEADERS")
        );
        assert_eq!(hides("{name: UVICORN_PROXY_HEADERS, value: 'true'}"), None);
        assert_eq!(
            hides("{name: UVICORN_FORWARDED_ALLOW_IPS, value: 10.0.0.1}"),
            Some("UVICORN_FORWARDED_ALLOW_IPS")
        );
        assert_eq!(hides("{name: FORWARDED_ALLOW_IPS, value: 10.0.0.1}"), None);
    }
}
