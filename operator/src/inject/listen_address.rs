//! Where LiteLLM listens without injection, which is where the sidecar listens instead: by an option, a variable of the program that
//! starts it, or that program's default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Container;

use super::command_line::flag;
use super::environment::{Environment, VariableValue};
use super::ports::probed_port;
use super::role::Invocation;
use super::script_variables::assignments;
use super::server_variables::ServerVariables;

/// The address that the sidecar takes over: no wider than LiteLLM's own, and of the same family. Where that is
/// hidden, it may be of either.
pub(super) fn listen_address(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> IpAddr {
    // The command line of a server reads a variable of its own, and listens on loopback where nothing is said.
    let server = ServerVariables::of(invocation.role, &invocation.words);
    let variable = server.map_or("HOST", |server| server.host);
    let default = server.map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |_| {
        Ipv4Addr::LOCALHOST.into()
    });
    let scripts = container.command.iter().chain(&container.args).flatten();
    let assigned: Vec<_> = scripts.flat_map(|script| assignments(script, variable)).collect();
    let certain = assigned.iter().rfind(|assignment| assignment.is_certain);
    let argument = flag(&invocation.words, &["--host"]);
    let host = match (argument, certain, environment.get(variable)) {
        (Some(argument), ..) => argument,
        (None, Some(assignment), _) => match literal(assignment.value) {
            // The same as none.
            Some(host) if host.is_empty() => Some(default.to_string()),
            host => host,
        },
        (None, None, VariableValue::Literal(host)) if !host.is_empty() => Some(host),
        (None, None, VariableValue::Hidden) => None,
        _ if environment.may_come_from_env_from(variable) && server.is_none() => None,
        // Something, such as the image, says otherwise where the kubelet asks it, which it could not on loopback.
        _ if server.is_some() && probed_port(container).is_some() => None,
        _ => Some(default.to_string()),
    };
    let Some(host) = host else {
        return Ipv6Addr::UNSPECIFIED.into();
    };
    match host.parse::<IpAddr>() {
        _ if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Ok(address) if address.is_loopback() => address,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// The value of an assignment, unless the shell makes it.
fn literal(value: &str) -> Option<String> {
    let value = value.trim_matches(['"', '\'']);
    (!value.contains(['$', '`'])).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn listens(yaml: &str) -> String {
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
        let environment = Environment::from_container(&container);
        let invocation = invocation(&container, &environment);
        listen_address(&container, &environment, &invocation).to_string()
    }

    #[test]
    fn a_server_listens_on_loopback_unless_its_own_option_or_variable_says_otherwise() {
        for (yaml, expected) in [
            ("command: [uvicorn, APP, --port, '4000']", "127.0.0.1"),
            ("command: [python, -m, uvicorn, APP]", "127.0.0.1"),
            ("command: [granian, --interface, asgi, APP]", "127.0.0.1"),
            // Neither reads the variable of LiteLLM's command line, nor that of the other.
            (
                "command: [uvicorn, APP], env: [{name: HOST, value: 0.0.0.0}]",
                "127.0.0.1",
            ),
            (
                "command: [granian, APP], env: [{name: UVICORN_HOST, value: 0.0.0.0}]",
                "127.0.0.1",
            ),
            ("command: [uvicorn, APP, --host, 0.0.0.0]", "0.0.0.0"),
            ("command: [uvicorn, APP, --host, '::']", "::"),
            (
                "command: [uvicorn, APP], env: [{name: UVICORN_HOST, value: 0.0.0.0}]",
                "0.0.0.0",
            ),
            (
                "command: [uvicorn, APP], env: [{name: UVICORN_HOST, value: ''}]",
                "127.0.0.1",
            ),
            (
                "command: [granian, APP], env: [{name: GRANIAN_HOST, value: '::'}]",
                "::",
            ),
            ("command: [env, UVICORN_HOST=0.0.0.0, uvicorn, APP]", "0.0.0.0"),
            (
                "command: [sh, -c, 'export UVICORN_HOST=\"0.0.0.0\"; exec uvicorn APP']",
                "0.0.0.0",
            ),
            ("command: [sh, -c, 'UVICORN_HOST= exec uvicorn APP']", "127.0.0.1"),
            (
                "command: [sh, -c, 'export UVICORN_HOST=$IP; exec uvicorn APP']",
                "::",
            ),
        ] {
            let yaml = yaml.replace("APP", "'litellm.proxy.proxy_server:app'");
            let yaml = match yaml.contains("sh, -c") {
                true => yaml.replace(
                    "'litellm.proxy.proxy_server:app'",
                    "litellm.proxy.proxy_server:app",
                ),
                false => yaml,
            };
            assert_eq!(listens(&yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn a_server_whose_address_is_not_shown_is_on_loopback_unless_the_kubelet_asks_it() {
        let server = "command: [uvicorn, 'litellm.proxy.proxy_server:app', --port, '4000']";
        assert_eq!(
            listens(&format!("{server}, livenessProbe: {{httpGet: {{port: 4000}}}}")),
            "::",
            "by the image's ENV"
        );
        let hidden = format!("{server}, envFrom: [{{secretRef: {{name: keys}}}}]");
        assert_eq!(listens(&hidden), "127.0.0.1");
        assert_eq!(
            listens(&format!("{hidden}, readinessProbe: {{httpGet: {{port: 4000}}}}")),
            "::"
        );
        let stated = "env: [{name: UVICORN_HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]";
        assert_eq!(listens(&format!("{server}, {stated}")), "::", "either family");
        let by_tool = "command: [doppler, run, --, uvicorn, 'litellm.proxy.proxy_server:app']";
        assert_eq!(listens(by_tool), "127.0.0.1");
    }

    #[test]
    fn the_command_line_listens_everywhere_unless_it_is_told_otherwise() {
        for (yaml, expected) in [
            ("args: [--port, '4000']", "0.0.0.0"),
            (
                "command: [litellm], env: [{name: HOST, value: 127.0.0.1}]",
                "127.0.0.1",
            ),
            ("command: [litellm], env: [{name: HOST, value: ''}]", "0.0.0.0"),
            ("command: [sh, -c, 'HOST=127.0.0.1 exec litellm']", "127.0.0.1"),
            // Another command's alone.
            (
                "command: [sh, -c, 'HOST=127.0.0.1 curl a; exec litellm']",
                "0.0.0.0",
            ),
            (
                "command: [litellm], env: [{name: UVICORN_HOST, value: 127.0.0.1}]",
                "0.0.0.0",
            ),
            (
                "args: [--port, '4000'], envFrom: [{configMapRef: {name: e}}]",
                "::",
            ),
        ] {
            assert_eq!(listens(yaml), expected, "{yaml}");
        }
    }
}
