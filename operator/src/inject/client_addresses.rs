//! Whether the server that LiteLLM runs in takes the client's address from what the sidecar says of it, or from the connection
//! alone, which comes from the sidecar for every client (`docs/client-addresses.md`).

use k8s_openapi::api::core::v1::Container;

use super::environment::Environment;
use super::role::{Invocation, Role};
use super::server_variables::ServerVariables;

/// A server or an option, and what to do about it.
type NameAndAdvice = (&'static str, &'static str);

/// Servers that know no forwarded address: their names, the option by which LiteLLM's command line runs each, and what to do about
/// that.
const SERVERS_WITHOUT_ADDRESSES: [(&str, &str, &str); 2] = [
    ("granian", "--run_granian", "take --run_granian out"),
    ("hypercorn", "--run_hypercorn", "take --run_hypercorn out"),
];
const ANOTHER_SERVER: &str = "start LiteLLM by uvicorn";

/// The server that LiteLLM is started in for certain, if it knows no forwarded address.
pub(super) fn server_without_any(invocation: &Invocation) -> Option<NameAndAdvice> {
    let has_option = |option: &str| invocation.words.iter().flatten().any(|word| word == option);
    let mut by_option = SERVERS_WITHOUT_ADDRESSES.into_iter();
    if let Some((server, _, advice)) = by_option.find(|(_, option, _)| has_option(option)) {
        return Some((server, advice));
    }
    ServerVariables::of(invocation.role, &invocation.words)
        .filter(|server| server.knows_no_address)
        .map(|_| ("granian", ANOTHER_SERVER))
}

/// What may hide addresses from LiteLLM: such a server, wherever it is named, or a setting of uvicorn's by which it believes the
/// sidecar none.
pub(super) fn hiding(container: &Container, role: Role, words: &[Option<String>]) -> Option<NameAndAdvice> {
    let stated = || container.command.iter().chain(&container.args).flatten();
    let names = |server: &str| {
        stated().any(|word| {
            let mut parts =
                word.split(|character: char| character.is_whitespace() || "/;&|".contains(character));
            parts.any(|part| part == server)
        })
    };
    for (server, option, without_option) in SERVERS_WITHOUT_ADDRESSES {
        if names(option) {
            return Some((server, without_option));
        }
        if names(server) {
            return Some((server, ANOTHER_SERVER));
        }
    }
    ["--no-proxy-headers", "--forwarded-allow-ips"]
        .into_iter()
        .find(|option| stated().any(|word| word.contains(option)))
        .or_else(|| {
            let environment = Environment::from_container(container);
            ServerVariables::of(role, words)?.hides_addresses(&environment)
        })
        .map(|option| (option, "use FORWARDED_ALLOW_IPS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn server(yaml: &str) -> Option<&'static str> {
        let container: Container =
            serde_saphyr::from_str(&format!("{{name: c, image: berriai/litellm, {yaml}}}")).unwrap();
        let environment = Environment::from_container(&container);
        server_without_any(&invocation(&container, &environment)).map(|(server, _)| server)
    }

    #[test]
    fn a_server_without_addresses_is_known_by_litellms_option_or_as_the_program_that_starts() {
        for (yaml, expected) in [
            ("args: [--port, '4000', --run_granian]", Some("granian")),
            ("command: [litellm], args: [--run_hypercorn]", Some("hypercorn")),
            (
                "command: [sh, -c, 'umask 022; exec litellm --run_hypercorn --port 4000']",
                Some("hypercorn"),
            ),
            (
                "command: [granian, --interface, asgi, 'litellm.proxy.proxy_server:app']",
                Some("granian"),
            ),
            (
                "command: [python, -m, granian, 'litellm.proxy.proxy_server:app']",
                Some("granian"),
            ),
            ("args: [--run_gunicorn]", None),
            ("command: [uvicorn, 'litellm.proxy.proxy_server:app']", None),
            // Only a path has the name.
            ("args: [--config, /etc/granian/config.yaml]", None),
            (
                "command: [sh, -c, 'ls /etc/hypercorn; exec litellm --port 4000']",
                None,
            ),
        ] {
            assert_eq!(server(yaml), expected, "{yaml}");
        }
    }
}
