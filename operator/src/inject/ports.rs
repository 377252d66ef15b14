//! Which ports: the one that LiteLLM's users know, which becomes the sidecar's, and three that nobody else has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};
use mcp_auth_protocol::pod::{HEALTH_PORT, LITELLM_PORT, OUTBOUND_PORT};

use super::command_line::{flag, words};
use super::environment::{Environment, Value};
use super::error::Refusal;
use super::options::Wishes;
use super::previous::Earlier;
use super::reserved::SIDECAR;

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
    wishes: &Wishes,
    earlier: Option<&Earlier>,
) -> Result<Ports, Refusal> {
    let host = host(container, environment);
    let known = earlier.and_then(|earlier| earlier.inbound.as_deref()?.parse().ok());
    let inbound = match (wishes.outbound_only, known) {
        (true, _) => None,
        (false, Some(known)) => Some(known),
        (false, None) => Some(SocketAddr::new(host, public(container, environment, wishes)?)),
    };
    if let Some(inbound) = inbound {
        check_nobody_else_has(inbound.port(), spec, container)?;
    }

    let mut taken: BTreeSet<u16> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(declared)
        .map(|(_, port)| port)
        .collect();
    taken.extend(inbound.map(|address| address.port()));
    // Without injection this is the only trace of a metrics process beside LiteLLM.
    if let Value::Literal(port) = environment.get("PROMETHEUS_METRICS_PORT") {
        taken.extend(port.parse::<u16>().ok());
    }
    let mut free = |preferred: u16, chosen: Option<u16>| {
        let port = chosen.or_else(|| (preferred..=u16::MAX).find(|port| !taken.contains(port)))?;
        taken.insert(port);
        Some(port)
    };
    let mut next = |preferred, chosen| free(preferred, chosen).ok_or(Refusal::NoPortLeft);
    let litellm = next(LITELLM_PORT, earlier.and_then(|earlier| earlier.litellm))?;
    let outbound = next(OUTBOUND_PORT, earlier.and_then(|earlier| earlier.outbound))?;
    let health = next(HEALTH_PORT, earlier.and_then(|earlier| earlier.health))?;
    let family = inbound.map_or(host, |address| address.ip());
    Ok(Ports {
        inbound,
        litellm,
        outbound,
        health: SocketAddr::new(any(family), health),
    })
}

/// The port that LiteLLM's users know.
fn public(container: &Container, environment: &Environment, wishes: &Wishes) -> Result<u16, Refusal> {
    let ports: Vec<(Option<&str>, u16)> = declared(container).collect();
    // What LiteLLM really listens on counts more than what the list says, which Kubernetes never checks.
    let argument = flag(&words(container, environment), &["--port"])
        .flatten()
        .and_then(|port| port.parse().ok());
    // Not every way of starting LiteLLM heeds the variable: it only chooses among what is declared.
    let variable = match environment.get("PORT") {
        Value::Literal(port) => port
            .parse()
            .ok()
            .filter(|port| ports.iter().any(|(_, declared)| declared == port)),
        Value::Absent | Value::Hidden => None,
    };
    let named = ports
        .iter()
        .find(|(name, _)| *name == Some("http"))
        .map(|(_, port)| *port);
    let known = wishes
        .port
        .or(argument.filter(|port| *port > 0))
        .or(variable)
        .or(named);
    match (known, ports.as_slice()) {
        (Some(port), _) => Ok(port),
        (None, [(_, port)]) => Ok(*port),
        (None, []) => Err(Refusal::NoPort {
            container: container.name.clone(),
        }),
        (None, several) => Err(Refusal::SeveralPorts {
            container: container.name.clone(),
            ports: several
                .iter()
                .map(|(_, port)| port.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The address that the sidecar takes over: no wider than LiteLLM's own, and of the same family.
fn host(container: &Container, environment: &Environment) -> IpAddr {
    let argument = flag(&words(container, environment), &["--host"]).flatten();
    let host = argument.or(match environment.get("HOST") {
        Value::Literal(host) => Some(host),
        Value::Absent | Value::Hidden => None,
    });
    match host.as_deref().map(|host| (host, host.parse::<IpAddr>())) {
        Some(("localhost", _)) => Ipv4Addr::LOCALHOST.into(),
        Some((_, Ok(address))) if address.is_loopback() => address,
        Some((_, Ok(IpAddr::V6(_)))) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn check_nobody_else_has(port: u16, spec: &PodSpec, litellm: &Container) -> Result<(), Refusal> {
    // An init container that ends has ended before LiteLLM starts.
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let others = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(stays));
    let other = others
        .filter(|container| container.name != litellm.name && container.name != SIDECAR)
        .find(|container| declared(container).any(|(_, declared)| declared == port));
    other.map_or(Ok(()), |container| {
        Err(Refusal::PortTaken {
            port,
            container: container.name.clone(),
        })
    })
}

/// Name and number of the declared TCP ports.
fn declared(container: &Container) -> impl Iterator<Item = (Option<&str>, u16)> {
    let is_tcp = |port: &&ContainerPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let number = |port: &ContainerPort| u16::try_from(port.container_port).ok();
    let ports = container.ports.iter().flatten().filter(is_tcp);
    ports.filter_map(move |port| Some((port.name.as_deref(), number(port)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_in(container: &str, others: &str, wishes: &Wishes) -> Result<Ports, &'static str> {
        let spec = format!("{{containers: [{{name: c, {container}}}, {others}]}}");
        let spec: PodSpec = serde_saphyr::from_str(&spec).unwrap();
        let container = &spec.containers[0];
        choose(&spec, container, &Environment::of(container), wishes, None)
            .map_err(|refusal| refusal.reason())
    }

    fn inbound(container: &str) -> Result<String, &'static str> {
        choose_in(container, "", &Wishes::default()).map(|ports| ports.inbound.unwrap().to_string())
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
        assert_eq!(inbound("image: i"), Err("NoPort"));
        assert_eq!(
            inbound("ports: [{containerPort: 6}, {containerPort: 7}]"),
            Err("SeveralPorts")
        );
    }

    #[test]
    fn is_never_reachable_from_further_away_than_litellm_was() {
        let with_host = |host| inbound(&format!("args: [--port, '4000', --host, '{host}']"));
        assert_eq!(with_host("127.0.0.1"), Ok("127.0.0.1:4000".into()));
        assert_eq!(with_host("localhost"), Ok("127.0.0.1:4000".into()));
        assert_eq!(with_host("::1"), Ok("[::1]:4000".into()));
        assert_eq!(with_host("::"), Ok("[::]:4000".into()));
        assert_eq!(with_host("$(POD_IP)"), Ok("0.0.0.0:4000".into()));
        let ports = choose_in("args: [--port, '4000', --host, '::1']", "", &Wishes::default()).unwrap();
        assert_eq!(ports.health.to_string(), "[::]:16482");
    }

    #[test]
    fn steps_aside_for_every_declared_port() {
        let others =
            "{name: o, ports: [{containerPort: 16480}, {containerPort: 16482}, {containerPort: 16483}]}";
        let ports = choose_in("ports: [{containerPort: 4000}]", others, &Wishes::default()).unwrap();
        assert_eq!(
            (ports.litellm, ports.outbound, ports.health.port()),
            (16481, 16484, 16485)
        );
        let own = choose_in("ports: [{containerPort: 16480}]", "", &Wishes::default()).unwrap();
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
            choose_in("ports: [{containerPort: 4000}]", &others, &Wishes::default()),
            Err("NoPortLeft")
        );
    }

    #[test]
    fn a_port_of_two_containers_is_refused_unless_litellm_keeps_it() {
        let others = "{name: o, ports: [{containerPort: 4000}]}";
        assert_eq!(
            choose_in("ports: [{containerPort: 4000}]", others, &Wishes::default()),
            Err("PortTaken")
        );
        let wishes = Wishes {
            outbound_only: true,
            ..Wishes::default()
        };
        assert_eq!(
            choose_in("ports: [{containerPort: 4000}]", others, &wishes)
                .unwrap()
                .inbound,
            None
        );
    }
}
