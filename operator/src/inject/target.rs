//! The target of an injection: the container that LiteLLM runs in, by the rank of its role.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use mcp_auth_protocol::pod::SHARED_FOLDERS;

use super::command_line::flag;
use super::environment::{Environment, VariableValue};
use super::error::InjectionError;
use super::image::Image;
use super::options::InjectionPolicy;
use super::path::is_yaml;
use super::reserved::is_reserved_volume;
use super::role::{Invocation, Role, invocation};

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// Index in `spec.containers`.
    pub index: usize,
    pub invocation: Invocation,
    /// Whether it is known to be LiteLLM, by what it runs or because its owner says so. If not, it only may
    /// be.
    pub is_known: bool,
}

/// How sure it is that a container is LiteLLM's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    /// Nothing in the pod says so, but a label of the user's may.
    Possible,
    /// Something in the pod says so, but not what it runs.
    Suspected,
    /// It is given a YAML file as configuration, and something else says that it is LiteLLM's.
    Likely,
    /// Image or environment are LiteLLM's.
    Probable,
    /// It is started as LiteLLM.
    Certain,
}

/// Values of the component label in charts, for components that do not serve LiteLLM's API.
const OTHER_COMPONENTS: [&str; 8] = [
    "ui",
    "migrations",
    "test",
    "worker",
    "collector",
    "data-manager",
    "metrics",
    "liteadmin",
];
/// Paths that LiteLLM answers probes on.
const PROBE_PATHS: [&str; 3] = ["/health/liveliness", "/health/readiness", "/health/liveness"];

/// The container that LiteLLM runs in. `None` if there is none and no label or annotation says that there is.
pub(super) fn find(
    pod: &Pod,
    spec: &PodSpec,
    named: Option<&str>,
    policy: InjectionPolicy,
) -> Result<Option<Target>, InjectionError> {
    let target = |index: usize, is_known| {
        let container = &spec.containers[index];
        let invocation = invocation(container, &Environment::from_container(container));
        Target {
            index,
            invocation,
            is_known,
        }
    };
    if let Some(name) = named {
        let index = spec
            .containers
            .iter()
            .position(|container| container.name == name);
        let index = index.ok_or_else(|| InjectionError::UnknownContainer {
            names: names(spec.containers.iter()),
        })?;
        return Ok(Some(target(index, true)));
    }
    let least = if policy == InjectionPolicy::Requested {
        Rank::Possible
    } else {
        Rank::Suspected
    };
    let mut candidates: Vec<(Rank, usize)> = spec
        .containers
        .iter()
        .enumerate()
        .filter_map(|(index, container)| Some((rank(pod, container)?, index)))
        .filter(|(rank, _)| *rank >= least)
        .collect();
    let highest = candidates.iter().map(|(rank, _)| *rank).max();
    if highest.is_none_or(|rank| rank <= Rank::Suspected)
        && let Some(container) = native_sidecar(pod, spec)
    {
        return Err(InjectionError::NativeSidecar {
            container: container.name.clone(),
        });
    }
    let Some(highest) = highest else {
        return match policy {
            InjectionPolicy::Requested => Err(InjectionError::NoTarget {
                names: names(spec.containers.iter()),
            }),
            _ => Ok(None),
        };
    };
    candidates.retain(|(rank, _)| *rank == highest);
    for decides in [declares_port as fn(&Container) -> bool, |container| {
        Image::of(container).names_litellm()
    }] {
        let holds = |(_, index): &(Rank, usize)| decides(&spec.containers[*index]);
        if candidates.len() > 1 && candidates.iter().any(holds) {
            candidates.retain(holds);
        }
    }
    match candidates.as_slice() {
        // A label of the pod's that asks for the sidecar says that it is LiteLLM, not that its arguments
        // arrive: an unknown program is refused by its role.
        [(rank, index)] => Ok(Some(target(
            *index,
            *rank != Rank::Suspected || policy == InjectionPolicy::Requested,
        ))),
        several => Err(InjectionError::SeveralTargets {
            names: names(several.iter().map(|(_, index)| &spec.containers[*index])),
        }),
    }
}

/// The container that a previous injection changed, which alone mounts a volume of injection's, or names a file in shared memory.
pub(super) fn of_previous_injection(spec: &PodSpec) -> Option<Target> {
    let is_injected = |container: &Container| {
        let mut mounts = container.volume_mounts.iter().flatten();
        let mut words = container.command.iter().chain(&container.args).flatten();
        mounts.any(|mount| is_reserved_volume(&mount.name)) || words.any(|word| word.contains(SHARED_FOLDERS))
    };
    let index = spec.containers.iter().position(is_injected)?;
    let container = &spec.containers[index];
    Some(Target {
        index,
        invocation: invocation(container, &Environment::from_container(container)),
        is_known: true,
    })
}

/// LiteLLM as an init container that runs on.
fn native_sidecar<'a>(pod: &Pod, spec: &'a PodSpec) -> Option<&'a Container> {
    spec.init_containers.iter().flatten().find(|container| {
        container.restart_policy.as_deref() == Some("Always")
            && rank(pod, container).is_some_and(|rank| rank >= Rank::Probable)
    })
}

fn rank(pod: &Pod, container: &Container) -> Option<Rank> {
    let environment = Environment::from_container(container);
    let invocation = invocation(container, &environment);
    let has_image = Image::of(container).names_litellm();
    let has_key = ["LITELLM_MASTER_KEY", "PROXY_MASTER_KEY", "LITELLM_SALT_KEY"]
        .iter()
        .any(|name| environment.get(name) != VariableValue::Absent);
    // The key alone does not: clients of LiteLLM have it too.
    let is_suspected =
        has_image && declares_port(container) || container.name == "litellm" || has_litellm_probe(container);
    let suspected = is_suspected.then_some(Rank::Suspected);
    match invocation.role {
        Role::LiteLlm(_) => Some(Rank::Certain),
        Role::Named(_) if has_image || has_key => Some(Rank::Certain),
        Role::Named(_) => Some(Rank::Likely),
        // Neither the image of the older charts' UI nor its pod has any other mark.
        Role::Entrypoint if is_other_component(pod, container) => None,
        Role::Entrypoint if has_image => Some(Rank::Probable),
        Role::Entrypoint if names_configuration(&invocation, &environment) && has_key => Some(Rank::Probable),
        // Many other programs take a YAML file by the same option.
        Role::Entrypoint if names_configuration(&invocation, &environment) && is_suspected => {
            Some(Rank::Likely)
        }
        Role::Entrypoint => suspected.or(Some(Rank::Possible)),
        Role::Program => suspected.or(Some(Rank::Possible)),
        Role::Shell if has_image => suspected,
        Role::Shell | Role::Other => None,
    }
}

fn declares_port(container: &Container) -> bool {
    container.ports.as_ref().is_some_and(|ports| !ports.is_empty())
}

/// Whether the kubelet asks it what only LiteLLM answers.
fn has_litellm_probe(container: &Container) -> bool {
    let asks = |probe: &Probe| {
        let path = probe.http_get.as_ref().and_then(|get| get.path.as_deref());
        path.is_some_and(|path| PROBE_PATHS.iter().any(|known| path.ends_with(known)))
    };
    let probes = [
        &container.startup_probe,
        &container.readiness_probe,
        &container.liveness_probe,
    ];
    probes.into_iter().flatten().any(asks)
}

fn is_other_component(pod: &Pod, container: &Container) -> bool {
    let component = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("app.kubernetes.io/component"));
    component.is_some_and(|component| OTHER_COMPONENTS.contains(&component.as_str()))
        || Image::of(container).is_other_component()
}

fn names_configuration(invocation: &Invocation, environment: &Environment) -> bool {
    environment.get("CONFIG_FILE_PATH") != VariableValue::Absent
        || flag(&invocation.words, &["--config", "-c"])
            .flatten()
            .is_some_and(|path| is_yaml(&path))
}

fn names<'a>(containers: impl Iterator<Item = &'a Container>) -> String {
    containers
        .map(|container| format!("`{}`", container.name))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(containers: &str, policy: InjectionPolicy) -> Result<Option<usize>, &'static str> {
        let spec: PodSpec = serde_saphyr::from_str(&format!("containers: {containers}")).unwrap();
        let target = find(&Pod::default(), &spec, None, policy);
        target
            .map(|target| target.map(|target| target.index))
            .map_err(|error| error.reason())
    }

    #[test]
    fn the_clearest_role_wins() {
        let containers = "[{name: sql, args: [--structured-logs]}, \
             {name: otel, args: [--config, /etc/otel.yaml]}, \
             {name: client, image: web, env: [{name: LITELLM_MASTER_KEY, value: x}]}, \
             {name: litellm, image: 'ghcr.io/berriai/litellm:v1', args: [--config, /c.yaml]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(Some(3)));
    }

    #[test]
    fn the_one_with_a_port_is_taken_among_equals() {
        let containers =
            "[{name: a, image: litellm}, {name: b, image: litellm, ports: [{containerPort: 4000}]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(Some(1)));
        let containers = "[{name: a, command: [litellm]}, {name: b, command: [litellm]}]";
        assert_eq!(
            find_in(containers, InjectionPolicy::ByNamespace),
            Err("SeveralTargets")
        );
    }

    #[test]
    fn what_only_mentions_litellm_or_its_files_is_no_target() {
        for containers in [
            "[{name: otel, image: 'otel/collector:1', args: [--config, /conf/otel.yaml], ports: [{containerPort: 1}]}]",
            "[{name: exporter, image: 'corp/litellm-exporter:1', args: [--target, 'http://litellm'], ports: [{containerPort: 1}]}]",
            "[{name: web, image: web, command: [sh, -c, 'until nc -z litellm 4000; do sleep 1; done; exec run']}]",
        ] {
            assert_eq!(
                find_in(containers, InjectionPolicy::ByNamespace),
                Ok(None),
                "{containers}"
            );
        }
        let beside = "[{name: litellm, image: 'berriai/litellm:v1', args: [--config, /c.yaml], ports: [{containerPort: 4000}]}, \
             {name: exporter, image: 'corp/litellm-exporter:1', command: [/exporter], ports: [{containerPort: 1}]}, \
             {name: web, image: web, command: [sh, -c, 'echo waiting for litellm ; exec run'], ports: [{containerPort: 2}]}]";
        assert_eq!(find_in(beside, InjectionPolicy::ByNamespace), Ok(Some(0)));
    }

    #[test]
    fn what_may_be_litellm_is_a_target_that_is_not_known() {
        let known = |container: &str| {
            let spec: PodSpec = serde_saphyr::from_str(&format!("containers: [{container}]")).unwrap();
            let target = find(&Pod::default(), &spec, None, InjectionPolicy::ByNamespace).unwrap();
            target.map(|target| target.is_known)
        };
        let probe = "readinessProbe: {httpGet: {path: /health/liveliness, port: 4000}}";
        assert_eq!(
            known(&format!("{{name: a, image: corp/gateway, {probe}}}")),
            Some(false)
        );
        assert_eq!(
            known(&format!(
                "{{name: a, image: corp/app, command: [python, main.py], {probe}}}"
            )),
            Some(false)
        );
        assert_eq!(
            known("{name: a, image: corp/litellm, command: [python, main.py], ports: [{containerPort: 1}]}"),
            Some(false)
        );
        assert_eq!(
            known(&format!(
                "{{name: a, image: corp/gateway, args: [-c, /c.yaml], {probe}}}"
            )),
            Some(true)
        );
        assert_eq!(
            known("{name: a, image: corp/app, command: [python, main.py]}"),
            None
        );
    }

    #[test]
    fn litellm_as_a_native_sidecar_is_told() {
        let spec: PodSpec = serde_saphyr::from_str(
            "{containers: [{name: app, image: app}], initContainers: [{name: litellm, image: berriai/litellm, \
             restartPolicy: Always, args: [--port, '4000']}]}",
        )
        .unwrap();
        let error = find(&Pod::default(), &spec, None, InjectionPolicy::ByNamespace).unwrap_err();
        assert_eq!(error.reason(), "NativeSidecar");
    }

    #[test]
    fn a_namespace_alone_never_makes_any_container_a_target() {
        let containers = "[{name: web, image: nginx, ports: [{containerPort: 80}]}, \
             {name: chat, image: open-webui, env: [{name: LITELLM_MASTER_KEY, value: x}]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(None));
        let containers =
            "[{name: web, image: 'registry.example.com:5000/proxy', ports: [{containerPort: 80}]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(None));
        assert_eq!(find_in(containers, InjectionPolicy::Requested), Ok(Some(0)));
    }
}
