//! Whether LiteLLM can be moved to another port, on which the sidecar alone calls it, by plain HTTP.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};

use super::client_addresses;
use super::environment::Environment;
use super::error::InjectionError;
use super::options::PodOptions;
use super::ports::port_number;
use super::role::{ArgumentsPlace, Invocation, Role, Start};
use super::script_variables::sets_variable;
use super::server_variables::ServerVariables;

/// Checks that LiteLLM can be moved to another port: that is done by arguments, which have to reach LiteLLM,
/// and the sidecar speaks plain HTTP to it.
pub(super) fn check_can_move_litellm(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
    options: &PodOptions,
) -> Result<(), InjectionError> {
    let name = || container.name.clone();
    match invocation.role {
        Role::LiteLlm(Start::BindServer) => {
            let server = ["gunicorn", "hypercorn"];
            let words = invocation.words.iter().flatten();
            let program = words
                .filter_map(|word| server.into_iter().find(|server| word.ends_with(server)))
                .next();
            return Err(InjectionError::ServerArguments {
                container: name(),
                program: program.unwrap_or(server[0]).to_owned(),
            });
        }
        // An annotation that names the container states that its program passes arguments on.
        Role::Program if options.container.is_none() => {
            return Err(InjectionError::UnknownCommand { container: name() });
        }
        _ if invocation.arguments == ArgumentsPlace::Unreachable => {
            return Err(InjectionError::ShellCommand { container: name() });
        }
        _ => {}
    }
    let server = ServerVariables::of(invocation.role, &invocation.words);
    let set = |names: &'static [&'static str]| names.iter().copied().find(|name| environment.is_set(name));
    let socket_variable = server.and_then(|server| set(server.own_socket));
    if let Some(option) = own_socket(invocation).or(socket_variable) {
        return Err(InjectionError::OwnSocket {
            container: name(),
            option,
        });
    }
    let scripts = || container.command.iter().chain(&container.args).flatten();
    let variable = ["SSL_KEYFILE_PATH", "SSL_CERTFILE_PATH"]
        .iter()
        .chain(server.map_or(&[][..], |server| server.tls))
        .find(|name| environment.is_set(name) || scripts().any(|script| sets_variable(script, name)));
    if let Some(variable) = variable {
        return Err(InjectionError::LiteLlmTls {
            what: format!("the variable {variable}"),
        });
    }
    let argument = invocation
        .words
        .iter()
        .flatten()
        .find(|word| word.starts_with("--ssl_") || word.starts_with("--ssl-"));
    match argument.and_then(|argument| argument.split('=').next()) {
        Some(argument) => Err(InjectionError::LiteLlmTls {
            what: format!("the argument {argument}"),
        }),
        None => check_sees_clients(container, environment, invocation, options),
    }
}

/// Checks that LiteLLM's server can be told of the clients behind the sidecar, unless the pod accepts that it is not.
fn check_sees_clients(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
    options: &PodOptions,
) -> Result<(), InjectionError> {
    match client_addresses::lost(container, environment, invocation) {
        Some((what, advice)) if !options.hides_client_addresses => {
            Err(InjectionError::ClientAddressesLost { what, advice })
        }
        _ => Ok(()),
    }
}

/// The option by which a server listens on a Unix socket, or one that it inherits, and not where it is told by the others.
fn own_socket(invocation: &Invocation) -> Option<&'static str> {
    if invocation.role != Role::LiteLlm(Start::Server) {
        return None;
    }
    let names = |word: &String, option: &str| {
        word.strip_prefix(option)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    ["--uds", "--fd"]
        .into_iter()
        .find(|option| invocation.words.iter().flatten().any(|word| names(word, option)))
}

/// Checks that the kubelet does not ask LiteLLM's port by TLS: then LiteLLM serves it, whatever brings the key.
pub(super) fn check_not_asked_by_tls(container: &Container, port: u16) -> Result<(), InjectionError> {
    match asked_by_tls(container, port) {
        Some(asking) => Err(InjectionError::LiteLlmTls {
            what: format!("something unseen (its {asking} asks by HTTPS)"),
        }),
        None => Ok(()),
    }
}

/// The probe or hook by which the kubelet asks this port by TLS.
fn asked_by_tls(container: &Container, port: u16) -> Option<&'static str> {
    let lifecycle = container.lifecycle.as_ref();
    let hook = |handler: Option<&LifecycleHandler>| handler?.http_get.clone();
    let get = |probe: &Option<Probe>| probe.as_ref()?.http_get.clone();
    let asking = [
        ("startupProbe", get(&container.startup_probe)),
        ("readinessProbe", get(&container.readiness_probe)),
        ("livenessProbe", get(&container.liveness_probe)),
        (
            "hook postStart",
            hook(lifecycle.and_then(|hooks| hooks.post_start.as_ref())),
        ),
        (
            "hook preStop",
            hook(lifecycle.and_then(|hooks| hooks.pre_stop.as_ref())),
        ),
    ];
    let is_tls = |get: &HTTPGetAction| {
        get.scheme.as_deref() == Some("HTTPS") && port_number(container, &get.port) == Some(port)
    };
    let mut found = asking
        .into_iter()
        .filter(|(_, get)| get.as_ref().is_some_and(is_tls));
    found.next().map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn container(yaml: &str) -> Container {
        serde_saphyr::from_str(&format!("{{name: c, image: berriai/litellm, {yaml}}}")).unwrap()
    }

    fn moved(yaml: &str) -> Result<(), &'static str> {
        let container = container(yaml);
        let environment = Environment::from_container(&container);
        let invocation = invocation(&container, &environment);
        check_can_move_litellm(&container, &environment, &invocation, &PodOptions::default())
            .map_err(|error| error.reason())
    }

    #[test]
    fn tls_that_a_start_command_turns_on_is_seen() {
        for yaml in [
            "command: [sh, -c, 'export SSL_KEYFILE_PATH=/k SSL_CERTFILE_PATH=/c; exec litellm']",
            "command: [env, SSL_CERTFILE_PATH=/c, litellm]",
            "command: [sh, -c, 'UVICORN_SSL_KEYFILE=/k uvicorn litellm.proxy.proxy_server:app']",
        ] {
            assert_eq!(moved(yaml), Err("LiteLlmTls"), "{yaml}");
        }
        assert_eq!(
            moved("command: [sh, -c, 'echo SSL_KEYFILE_PATH=/k; exec litellm']"),
            Ok(())
        );
    }

    #[test]
    fn a_probe_or_hook_that_asks_the_port_by_https_tells_of_tls() {
        let asked = |yaml: &str| asked_by_tls(&container(yaml), 4000);
        let get = "{httpGet: {scheme: HTTPS, port: 4000}}";
        for (yaml, expected) in [
            (format!("startupProbe: {get}"), Some("startupProbe")),
            (format!("readinessProbe: {get}"), Some("readinessProbe")),
            (format!("livenessProbe: {get}"), Some("livenessProbe")),
            (format!("lifecycle: {{postStart: {get}}}"), Some("hook postStart")),
            (format!("lifecycle: {{preStop: {get}}}"), Some("hook preStop")),
            (
                "ports: [{name: web, containerPort: 4000}], livenessProbe: {httpGet: {scheme: HTTPS, port: web}}".into(),
                Some("livenessProbe"),
            ),
            // Another port, which is not moved.
            ("livenessProbe: {httpGet: {scheme: HTTPS, port: 8443}}".into(), None),
            ("livenessProbe: {httpGet: {scheme: HTTP, port: 4000}}".into(), None),
            ("livenessProbe: {httpGet: {port: 4000}}".into(), None),
        ] {
            assert_eq!(asked(&yaml), expected, "{yaml}");
        }
    }
}
