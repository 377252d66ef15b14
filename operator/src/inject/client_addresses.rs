//! Whether the server that LiteLLM runs in takes the client's address from what the sidecar says of it, or from the connection
//! alone, which comes from the sidecar for every client (`docs/client-addresses.md`).

use k8s_openapi::api::core::v1::Container;

use super::environment::Environment;
use super::role::{Invocation, Role};
use super::script_variables::sets_variable;
use super::server_variables::ServerVariables;
use super::trusted_proxies::FORWARDED_ALLOW_IPS;

/// A server or an option, and what to do about it.
type NameAndAdvice = (&'static str, &'static str);

/// Servers that know no forwarded address: their names, the option by which LiteLLM's command line runs each, and what to do about
/// that.
const SERVERS_WITHOUT_ADDRESSES: [(&str, &str, &str); 2] = [
    ("granian", "--run_granian", "take --run_granian out"),
    ("hypercorn", "--run_hypercorn", "take --run_hypercorn out"),
];
const ANOTHER_SERVER: &str = "start LiteLLM by uvicorn";

const INTO_VARIABLE: &str = "use FORWARDED_ALLOW_IPS in `env`";
const LIST_OF_SCRIPT: &str = "a script's FORWARDED_ALLOW_IPS";
/// Options of uvicorn by which it believes the sidecar no address, each with its variable and what to do about it.
const UVICORN: [(&str, &str, &str); 2] = [
    ("--no-proxy-headers", "UVICORN_PROXY_HEADERS", "take it out"),
    (
        "--forwarded-allow-ips",
        "UVICORN_FORWARDED_ALLOW_IPS",
        INTO_VARIABLE,
    ),
];

/// What hides addresses from LiteLLM for certain: a server that knows no forwarded address, or what has uvicorn believe the sidecar
/// none.
pub(super) fn lost(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> Option<NameAndAdvice> {
    let has_option = |option: &str| {
        let mut words = invocation.words.iter().flatten();
        words.any(|word| word.split('=').next() == Some(option))
    };
    let mut by_option = SERVERS_WITHOUT_ADDRESSES.into_iter();
    if let Some((server, _, advice)) = by_option.find(|(_, option, _)| has_option(option)) {
        return Some((server, advice));
    }
    let is_set_in_script = |name: &str| {
        let mut scripts = container.command.iter().chain(&container.args).flatten();
        scripts.any(|script| sets_variable(script, name))
    };
    let server = ServerVariables::of(invocation.role, &invocation.words);
    let of_server = server.and_then(|server| {
        if server.knows_no_address {
            return Some(("granian", ANOTHER_SERVER));
        }
        let by_variable = server.hides_addresses(environment);
        UVICORN.into_iter().find_map(|(option, variable, advice)| {
            if has_option(option) {
                return Some((option, advice));
            }
            let is_set = by_variable == Some(variable) || is_set_in_script(variable);
            is_set.then_some((variable, advice))
        })
    });
    // Every server but granian and hypercorn reads it, and the sidecar applies the one of `env` alone.
    of_server.or_else(|| is_set_in_script(FORWARDED_ALLOW_IPS).then_some((LIST_OF_SCRIPT, INTO_VARIABLE)))
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
    UVICORN
        .into_iter()
        .map(|(option, ..)| option)
        .find(|option| stated().any(|word| word.contains(option)))
        .or_else(|| {
            let environment = Environment::from_container(container);
            ServerVariables::of(role, words)?.hides_addresses(&environment)
        })
        .or_else(|| {
            let is_set = stated().any(|word| sets_variable(word, FORWARDED_ALLOW_IPS));
            is_set.then_some(LIST_OF_SCRIPT)
        })
        .map(|option| (option, INTO_VARIABLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn what_hides(yaml: &str) -> Option<&'static str> {
        let container: Container =
            serde_saphyr::from_str(&format!("{{name: c, image: berriai/litellm, {yaml}}}")).unwrap();
        let environment = Environment::from_container(&container);
        lost(&container, &environment, &invocation(&container, &environment)).map(|(what, _)| what)
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
            assert_eq!(what_hides(yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn uvicorn_believes_the_sidecar_none_by_its_options_their_variables_and_a_list_that_the_sidecar_does_not_see()
     {
        let uvicorn = "command: [uvicorn, 'litellm.proxy.proxy_server:app', --port, '4000'";
        for (yaml, expected) in [
            (
                format!("{uvicorn}, --no-proxy-headers]"),
                Some("--no-proxy-headers"),
            ),
            (
                format!("{uvicorn}, --forwarded-allow-ips, 10.0.0.1]"),
                Some("--forwarded-allow-ips"),
            ),
            (
                format!("{uvicorn}, '--forwarded-allow-ips=*']"),
                Some("--forwarded-allow-ips"),
            ),
            (
                format!("{uvicorn}], env: [{{name: UVICORN_PROXY_HEADERS, value: 'false'}}]"),
                Some("UVICORN_PROXY_HEADERS"),
            ),
            (
                format!("{uvicorn}], env: [{{name: UVICORN_FORWARDED_ALLOW_IPS, value: '*'}}]"),
                Some("UVICORN_FORWARDED_ALLOW_IPS"),
            ),
            (format!("{uvicorn}, --proxy-headers]"), None),
            (
                format!("{uvicorn}], env: [{{name: FORWARDED_ALLOW_IPS, value: 10.0.0.0/8}}]"),
                None,
            ),
            // Only uvicorn's own command line has these.
            (
                "args: [--port, '4000'], env: [{name: UVICORN_PROXY_HEADERS, value: 'false'}]".to_owned(),
                None,
            ),
        ] {
            assert_eq!(what_hides(&yaml), expected, "{yaml}");
        }
        let script = Some("a script's FORWARDED_ALLOW_IPS");
        for (line, expected) in [
            (
                "sh, -c, 'export FORWARDED_ALLOW_IPS=10.0.0.0/8; exec litellm --port 4000'",
                script,
            ),
            ("env, FORWARDED_ALLOW_IPS=10.0.0.1, litellm", script),
            (
                "sh, -c, 'FORWARDED_ALLOW_IPS=* uvicorn litellm.proxy.proxy_server:app'",
                script,
            ),
            (
                "sh, -c, 'UVICORN_PROXY_HEADERS=0 uvicorn litellm.proxy.proxy_server:app'",
                Some("UVICORN_PROXY_HEADERS"),
            ),
            ("sh, -c, 'echo $FORWARDED_ALLOW_IPS; exec litellm'", None),
        ] {
            assert_eq!(what_hides(&format!("command: [{line}]")), expected, "{line}");
        }
    }
}
