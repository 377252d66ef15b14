//! The ports of an injected pod: the one that LiteLLM's users call, which becomes the sidecar's, and three
//! that no container of the pod declares.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mcp_auth_protocol::pod::{HEALTH_PORT, LITELLM_PORT, OUTBOUND_PORT};

use super::command_line::{Words, flag};
use super::environment::{Environment, VariableValue};
use super::error::InjectionError;
use super::image::Image;
use super::listen_address::listen_address;
use super::options::PodOptions;
use super::previous::PreviousInjection;
use super::reserved::SIDECAR;
use super::role::{Invocation, Role, Start};
use super::script_variables::sets_variable;

/// Where LiteLLM's command line listens if nothing says otherwise.
const DEFAULT_PORT: u16 = 4000;

/// Where LiteLLM's metrics process listens, on the host that LiteLLM listens on.
const METRICS_OPTION: &str = "--prometheus_metrics_port";
const METRICS_VARIABLE: &str = "PROMETHEUS_METRICS_PORT";

#[derive(Debug, PartialEq)]
pub(super) struct Ports {
    /// Where LiteLLM used to listen. `None`: it goes on listening there itself.
    pub inbound: Option<SocketAddr>,
    /// Where LiteLLM listens on loopback instead.
    pub litellm: u16,
    pub outbound: u16,
    /// Reached by the kubelet, so never on loopback.
    pub health: SocketAddr,
}

pub(super) fn choose(
    spec: &PodSpec,
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
    options: &PodOptions,
    previous: Option<&PreviousInjection>,
) -> Result<Ports, InjectionError> {
    let host = listen_address(container, environment, invocation);
    let previous_inbound = previous.and_then(|previous| previous.inbound.as_deref()?.parse().ok());
    let inbound = match (options.outbound_only, previous_inbound) {
        (true, _) => None,
        (false, Some(address)) => Some(address),
        (false, None) => Some(SocketAddr::new(
            host,
            litellm_port(container, environment, invocation, options)?,
        )),
    };
    if let Some(inbound) = inbound {
        check_not_declared_elsewhere(inbound.port(), spec, container)?;
    }

    let mut used: BTreeSet<u16> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(declared_ports)
        .map(|(_, port)| port)
        .collect();
    used.extend(inbound.map(|address| address.port()));
    // Without injection this is the only trace of a metrics process beside LiteLLM.
    let metrics = match flag(&invocation.words, &[METRICS_OPTION]) {
        Some(argument) => argument,
        None => match environment.get(METRICS_VARIABLE) {
            VariableValue::Literal(port) => Some(port),
            _ => None,
        },
    };
    used.extend(metrics.and_then(|port| port.parse::<u16>().ok()));
    let mut reserve = |preferred: u16, previous: Option<u16>| {
        let port = previous.or_else(|| (preferred..=u16::MAX).find(|port| !used.contains(port)));
        let port = port.ok_or(InjectionError::NoPortLeft)?;
        used.insert(port);
        Ok(port)
    };
    let litellm = reserve(LITELLM_PORT, previous.and_then(|previous| previous.litellm))?;
    let outbound = reserve(OUTBOUND_PORT, previous.and_then(|previous| previous.outbound))?;
    let health = reserve(HEALTH_PORT, previous.and_then(|previous| previous.health))?;
    let listen_ip = inbound.map_or(host, |address| address.ip());
    Ok(Ports {
        inbound,
        litellm,
        outbound,
        health: SocketAddr::new(unspecified_address(listen_ip), health),
    })
}

/// Whether LiteLLM has a metrics process on a port of its own.
pub(super) fn has_metrics_port(environment: &Environment, words: Words) -> bool {
    flag(words, &[METRICS_OPTION]).is_some() || environment.is_set(METRICS_VARIABLE)
}

/// The port that LiteLLM's users call.
fn litellm_port(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
    options: &PodOptions,
) -> Result<u16, InjectionError> {
    let ports: Vec<(Option<&str>, u16)> = declared_ports(container).collect();
    // What LiteLLM really listens on counts more than what the list says, which Kubernetes never checks.
    let argument = flag(&invocation.words, &["--port"])
        .flatten()
        .and_then(|port| port.parse().ok());
    // Not every way of starting LiteLLM heeds the variable: it only chooses among what is declared.
    let variable = match environment.get("PORT") {
        VariableValue::Literal(port) => port
            .parse()
            .ok()
            .filter(|port| ports.iter().any(|(_, declared)| declared == port)),
        VariableValue::Absent | VariableValue::Hidden => None,
    };
    let named = ports
        .iter()
        .find(|(name, _)| *name == Some("http"))
        .map(|(_, port)| *port);
    let is_declared = |port: &u16| ports.is_empty() || ports.iter().any(|(_, declared)| declared == port);
    // The kubelet asks LiteLLM where it listens.
    let probed = probed_port(container).filter(is_declared);
    // An image may look like LiteLLM's own and be another with a port of its own: of that one the pod would never get ready.
    let known = known_port(container, environment, invocation)
        .map(|known| probed.filter(|_| !is_declared(&known)).unwrap_or(known));
    let explicit = options
        .port
        .or(argument.filter(|port| *port > 0))
        .or(known)
        .or(variable)
        .or(named);
    if let (None, [(_, only)]) = (explicit, ports.as_slice()) {
        return Ok(*only);
    }
    let default = default_port(container, environment, invocation).filter(is_declared);
    match (explicit.or(probed).or(default), ports.as_slice()) {
        (Some(port), _) => Ok(port),
        (None, []) => Err(InjectionError::NoPort {
            container: container.name.clone(),
        }),
        (None, several) => Err(InjectionError::SeveralPorts {
            container: container.name.clone(),
            ports: several
                .iter()
                .map(|(_, port)| port.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The port that all probes of the container ask, by number or name.
pub(super) fn probed_port(container: &Container) -> Option<u16> {
    let port = |probe: &Probe| match (&probe.http_get, &probe.tcp_socket) {
        (Some(get), _) => port_number(container, &get.port),
        (None, Some(socket)) => port_number(container, &socket.port),
        (None, None) => None,
    };
    let probes = [
        &container.startup_probe,
        &container.readiness_probe,
        &container.liveness_probe,
    ];
    let mut ports = probes.into_iter().flatten().filter_map(port);
    let first = ports.next()?;
    ports.all(|other| other == first).then_some(first)
}

/// The number of a port that is stated by number or name.
pub(super) fn port_number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => declared_ports(container)
            .find(|(declared, _)| *declared == Some(name.as_str()))
            .map(|(_, number)| number)
            .or_else(|| name.parse().ok()),
    }
}

/// The port of LiteLLM's own image where nothing can have changed it, whatever is declared and not probed: its users call that
/// one, since nothing listens on any other.
fn known_port(container: &Container, environment: &Environment, invocation: &Invocation) -> Option<u16> {
    let image = Image::of(container);
    let is_command_line = match invocation.role {
        Role::LiteLlm(start) | Role::Named(start) => start == Start::CommandLine,
        // What the image of a component starts has a port of its own.
        Role::Entrypoint => !image.is_component(),
        Role::Shell | Role::Program | Role::Other => false,
    };
    let mut words = container.command.iter().chain(&container.args).flatten();
    let may_be_another = invocation.environment_source.is_some()
        || environment.is_set("SEPARATE_HEALTH_APP")
        || words.any(|word| sets_variable(word, "PORT"));
    (image.is_official() && is_command_line && !may_be_another)
        .then(|| default_port(container, environment, invocation))
        .flatten()
}

/// The port that LiteLLM's own command line listens on where no option says otherwise: that of the variable, or its
/// default. `None` if the variable may be hidden.
fn default_port(container: &Container, environment: &Environment, invocation: &Invocation) -> Option<u16> {
    let is_command_line = matches!(
        invocation.role,
        Role::LiteLlm(Start::CommandLine | Start::Launcher) | Role::Named(_) | Role::Entrypoint
    );
    if !is_command_line || flag(&invocation.words, &["--port"]).is_some() {
        return None;
    }
    // The image's own arguments hold an option, which counts more than the variable.
    let has_words = container
        .command
        .iter()
        .chain(&container.args)
        .any(|words| !words.is_empty());
    match environment.get_or_hidden("PORT") {
        VariableValue::Literal(port) if has_words => port.parse().ok().filter(|port| *port > 0),
        VariableValue::Literal(_) | VariableValue::Absent => Some(DEFAULT_PORT),
        VariableValue::Hidden => None,
    }
}

fn unspecified_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn check_not_declared_elsewhere(
    port: u16,
    spec: &PodSpec,
    litellm: &Container,
) -> Result<(), InjectionError> {
    // An init container that ends has ended before LiteLLM starts.
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let others = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(stays));
    let other = others
        .filter(|container| container.name != litellm.name && container.name != SIDECAR)
        .find(|container| declared_ports(container).any(|(_, declared)| declared == port));
    other.map_or(Ok(()), |container| {
        Err(InjectionError::PortTaken {
            port,
            container: container.name.clone(),
        })
    })
}

/// Name and number of the declared TCP ports.
fn declared_ports(container: &Container) -> impl Iterator<Item = (Option<&str>, u16)> {
    let is_tcp = |port: &&ContainerPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let number = |port: &ContainerPort| u16::try_from(port.container_port).ok();
    let ports = container.ports.iter().flatten().filter(is_tcp);
    ports.filter_map(move |port| Some((port.name.as_deref(), number(port)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn choose_in(container: &str, others: &str, options: &PodOptions) -> Result<Ports, &'static str> {
        let spec = format!("{{containers: [{{name: c, {container}}}, {others}]}}");
        let spec: PodSpec = serde_saphyr::from_str(&spec).unwrap();
        let container = &spec.containers[0];
        let environment = Environment::from_container(container);
        let invocation = invocation(container, &environment);
        choose(&spec, container, &environment, &invocation, options, None).map_err(|error| error.reason())
    }

    fn inbound(container: &str) -> Result<String, &'static str> {
        choose_in(container, "", &PodOptions::default()).map(|ports| ports.inbound.unwrap().to_string())
    }

    #[test]
    fn takes_the_port_that_litellm_really_listens_on() {
        let ports =
            "ports: [{name: metrics, containerPort: 1}, {name: http, containerPort: 2}, {containerPort: 3}]";
        assert_eq!(inbound(ports), Ok("0.0.0.0:2".into()));
        assert_eq!(
            inbound(&format!("{ports}, env: [{{name: PORT, value: '3'}}]")),
            Ok("0.0.0.0:3".into())
        );
        assert_eq!(
            inbound(&format!("{ports}, env: [{{name: PORT, value: '4'}}]")),
            Ok("0.0.0.0:2".into())
        );
        assert_eq!(
            inbound(&format!("{ports}, args: [--port, '4', --port=5]")),
            Ok("0.0.0.0:5".into())
        );
        assert_eq!(
            inbound("ports: [{containerPort: 9, protocol: UDP}, {containerPort: 6}]"),
            Ok("0.0.0.0:6".into())
        );
        assert_eq!(inbound("command: [/start]"), Err("NoPort"));
        assert_eq!(
            inbound("ports: [{containerPort: 6}, {containerPort: 7}]"),
            Err("SeveralPorts")
        );
    }

    #[test]
    fn probes_and_litellms_default_say_which_of_several_ports_it_is() {
        let several = "ports: [{name: api, containerPort: 8000}, {name: metrics, containerPort: 9090}]";
        let probe =
            "readinessProbe: {httpGet: {port: api, path: /}}, livenessProbe: {tcpSocket: {port: 8000}}";
        assert_eq!(inbound(&format!("{several}, {probe}")), Ok("0.0.0.0:8000".into()));
        let torn = "readinessProbe: {httpGet: {port: api}}, livenessProbe: {tcpSocket: {port: 9090}}";
        assert_eq!(inbound(&format!("{several}, {torn}")), Err("SeveralPorts"));
        assert_eq!(
            inbound("ports: [{containerPort: 9090}, {containerPort: 4000}]"),
            Ok("0.0.0.0:4000".into())
        );
        assert_eq!(inbound("image: i"), Ok("0.0.0.0:4000".into()));
        assert_eq!(
            inbound("readinessProbe: {httpGet: {port: 8080}}"),
            Ok("0.0.0.0:8080".into())
        );
        let by_variable = "env: [{name: PORT, value: '4300'}]";
        assert_eq!(
            inbound(&format!("args: [--config, /a.yaml], {by_variable}")),
            Ok("0.0.0.0:4300".into())
        );
        // The image's own arguments are `--port 4000`.
        assert_eq!(
            inbound(&format!("image: i, {by_variable}")),
            Ok("0.0.0.0:4000".into())
        );
        // What may be another port than the default.
        assert_eq!(inbound("envFrom: [{configMapRef: {name: e}}]"), Err("NoPort"));
        assert_eq!(inbound("args: [--port, $(X)]"), Err("NoPort"));
        assert_eq!(
            inbound("command: [uvicorn, 'litellm.proxy.proxy_server:app']"),
            Err("NoPort")
        );
    }

    #[test]
    fn of_litellms_own_image_the_port_is_known_whatever_is_declared_and_not_probed() {
        let declared = "image: ghcr.io/berriai/litellm:v1.85.1, ports: [{name: http, containerPort: 8000}]";
        let config = "args: [--config, /c.yaml]";
        let at = |more: &str| inbound(&format!("{declared}, {more}"));
        assert_eq!(at(config), Ok("0.0.0.0:4000".into()));
        // What is probed was ready: the image is another than its name says.
        for probe in ["httpGet: {port: http}", "tcpSocket: {port: 8000}"] {
            let probed = format!("{config}, readinessProbe: {{{probe}}}");
            assert_eq!(at(&probed), Ok("0.0.0.0:8000".into()), "{probe}");
        }
        assert_eq!(
            at(&format!("{config}, readinessProbe: {{httpGet: {{port: 4000}}}}")),
            Ok("0.0.0.0:4000".into()),
            "this one is not declared"
        );
        let both = "image: ghcr.io/berriai/litellm:v1.85.1, args: [--config, /c.yaml], \
                    ports: [{containerPort: 4000}, {containerPort: 9090}], readinessProbe: {httpGet: {port: 9090}}";
        assert_eq!(inbound(both), Ok("0.0.0.0:4000".into()), "this one is");
        assert_eq!(
            at("command: [sh, -c, 'litellm --config /c.yaml']"),
            Ok("0.0.0.0:4000".into())
        );
        let by_variable = "env: [{name: PORT, value: '8001'}]";
        assert_eq!(at(&format!("{config}, {by_variable}")), Ok("0.0.0.0:8001".into()));
        assert_eq!(
            at(by_variable),
            Ok("0.0.0.0:4000".into()),
            "the image's own arguments are --port 4000"
        );
        // What may have changed it.
        for more in [
            "args: [--port, $(X)]",
            "args: [--config, /c.yaml], envFrom: [{configMapRef: {name: e}}]",
            "args: [--config, /c.yaml], env: [{name: PORT, valueFrom: {fieldRef: {fieldPath: x}}}]",
            "command: [sh, -c, 'export PORT=8000; litellm']",
            "command: [doppler, run, --, litellm]",
            "args: [gateway]",
            "command: [uvicorn, 'litellm.proxy.proxy_server:app']",
        ] {
            assert!(at(more).unwrap().ends_with(":8000"), "{more}");
        }
        let backend =
            "image: ghcr.io/berriai/litellm-backend:v1.85.1, ports: [{name: http, containerPort: 4001}]";
        assert_eq!(inbound(backend), Ok("0.0.0.0:4001".into()));
    }

    #[test]
    fn is_never_reachable_from_further_away_than_litellm_was() {
        let with_host = |host| inbound(&format!("args: [--port, '4000', --host, '{host}']"));
        assert_eq!(with_host("127.0.0.1"), Ok("127.0.0.1:4000".into()));
        assert_eq!(with_host("localhost"), Ok("127.0.0.1:4000".into()));
        assert_eq!(with_host("::1"), Ok("[::1]:4000".into()));
        assert_eq!(with_host("::"), Ok("[::]:4000".into()));
        assert_eq!(with_host("10.0.0.1"), Ok("0.0.0.0:4000".into()));
        assert_eq!(with_host("$(POD_IP)"), Ok("[::]:4000".into()), "either family");
        assert_eq!(
            inbound("args: [--port, '4000'], envFrom: [{configMapRef: {name: e}}]"),
            Ok("[::]:4000".into())
        );
        let ports = choose_in(
            "args: [--port, '4000', --host, '::1']",
            "",
            &PodOptions::default(),
        )
        .unwrap();
        assert_eq!(ports.health.to_string(), "[::]:16482");
    }

    #[test]
    fn steps_aside_for_every_declared_port() {
        let others =
            "{name: o, ports: [{containerPort: 16480}, {containerPort: 16482}, {containerPort: 16483}]}";
        let ports = choose_in("ports: [{containerPort: 4000}]", others, &PodOptions::default()).unwrap();
        assert_eq!(
            (ports.litellm, ports.outbound, ports.health.port()),
            (16481, 16484, 16485)
        );
        for metrics in [
            "args: [--port, '4000', --prometheus_metrics_port, '16480']",
            "args: [--port, '4000', --prometheus_metrics_port=16480]",
            "args: [--port, '4000'], env: [{name: PROMETHEUS_METRICS_PORT, value: '16480'}]",
        ] {
            let ports = choose_in(metrics, "", &PodOptions::default()).unwrap();
            assert_eq!(ports.litellm, 16481, "{metrics}");
        }
        let own = choose_in("ports: [{containerPort: 16480}]", "", &PodOptions::default()).unwrap();
        assert_eq!(
            (own.litellm, own.outbound, own.health.port()),
            (16481, 16482, 16483)
        );
    }

    #[test]
    fn a_pod_that_declares_every_port_is_refused() {
        let all: Vec<String> = (16480..=u16::MAX)
            .map(|port| format!("{{containerPort: {port}}}"))
            .collect();
        let others = format!("{{name: o, ports: [{}]}}", all.join(", "));
        assert_eq!(
            choose_in("ports: [{containerPort: 4000}]", &others, &PodOptions::default()),
            Err("NoPortLeft")
        );
    }

    #[test]
    fn a_port_of_two_containers_is_refused_unless_litellm_keeps_it() {
        let others = "{name: o, ports: [{containerPort: 4000}]}";
        assert_eq!(
            choose_in("ports: [{containerPort: 4000}]", others, &PodOptions::default()),
            Err("PortTaken")
        );
        let options = PodOptions {
            outbound_only: true,
            ..PodOptions::default()
        };
        assert_eq!(
            choose_in("ports: [{containerPort: 4000}]", others, &options)
                .unwrap()
                .inbound,
            None
        );
    }
}
