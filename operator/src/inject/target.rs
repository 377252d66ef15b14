//! The target of an injection: the container that LiteLLM runs in, by the rank of its role.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::command_line::flag;
use super::environment::{Environment, VariableValue};
use super::error::InjectionError;
use super::options::InjectionPolicy;
use super::path::is_yaml;
use super::role::{Role, role};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// Index in `spec.containers`.
    pub index: usize,
    pub role: Role,
}

/// How sure it is that a container is LiteLLM's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    /// Nothing in the pod says so, but a label of the user's may.
    Possible,
    /// It is given a YAML file as configuration.
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

/// The container that LiteLLM runs in. `None` if there is none and no label or annotation says that there is.
pub(super) fn find(
    pod: &Pod,
    spec: &PodSpec,
    named: Option<&str>,
    policy: InjectionPolicy,
) -> Result<Option<Target>, InjectionError> {
    if let Some(name) = named {
        let index = spec
            .containers
            .iter()
            .position(|container| container.name == name);
        let index = index.ok_or_else(|| InjectionError::UnknownContainer {
            names: names(spec.containers.iter()),
        })?;
        let container = &spec.containers[index];
        let role = role(container, &Environment::from_container(container));
        return Ok(Some(Target { index, role }));
    }
    let least = if policy == InjectionPolicy::Requested {
        Rank::Possible
    } else {
        Rank::Likely
    };
    let mut candidates: Vec<(Rank, Target)> = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let environment = Environment::from_container(container);
        let role = role(container, &environment);
        if let Some(rank) = rank(pod, container, &environment, role).filter(|rank| *rank >= least) {
            candidates.push((rank, Target { index, role }));
        }
    }
    let Some(highest) = candidates.iter().map(|(rank, _)| *rank).max() else {
        return match policy {
            InjectionPolicy::Requested => Err(InjectionError::NoTarget {
                names: names(spec.containers.iter()),
            }),
            _ => Ok(None),
        };
    };
    candidates.retain(|(rank, _)| *rank == highest);
    let has_port = |target: &Target| declares_port(&spec.containers[target.index]);
    if candidates.len() > 1 && candidates.iter().any(|(_, target)| has_port(target)) {
        candidates.retain(|(_, target)| has_port(target));
    }
    match candidates.as_slice() {
        [(_, target)] => Ok(Some(*target)),
        several => Err(InjectionError::SeveralTargets {
            names: names(several.iter().map(|(_, target)| &spec.containers[target.index])),
        }),
    }
}

fn rank(pod: &Pod, container: &Container, environment: &Environment, role: Role) -> Option<Rank> {
    let has_image = image(container).contains("litellm");
    let has_key = ["LITELLM_MASTER_KEY", "PROXY_MASTER_KEY", "LITELLM_SALT_KEY"]
        .iter()
        .any(|name| environment.get(name) != VariableValue::Absent);
    let has_port = declares_port(container);
    match role {
        Role::LiteLlm => Some(Rank::Certain),
        Role::Named if has_image || has_key => Some(Rank::Certain),
        Role::Named => Some(Rank::Likely),
        // Neither the image of the older charts' UI nor its pod has any other mark.
        Role::Entrypoint if is_other_component(pod, container) => None,
        Role::Entrypoint if has_image => Some(Rank::Probable),
        Role::Entrypoint if names_configuration(container, environment) => {
            Some(if has_key { Rank::Probable } else { Rank::Likely })
        }
        Role::Entrypoint => Some(Rank::Possible),
        // Scripts of others name LiteLLM as well, to wait for it or to call it.
        Role::Shell { names_litellm: true } if has_image || has_key || has_port => Some(Rank::Certain),
        Role::Shell { .. } | Role::Program if has_image && has_port => Some(Rank::Probable),
        Role::Shell { names_litellm: true } | Role::Program => Some(Rank::Possible),
        Role::Shell { names_litellm: false } | Role::Other => None,
    }
}

fn declares_port(container: &Container) -> bool {
    container.ports.as_ref().is_some_and(|ports| !ports.is_empty())
}

/// The image without its tag and digest, in lower case.
fn image(container: &Container) -> String {
    let image = container
        .image
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let image = image.split('@').next().unwrap_or_default();
    match image.rsplit_once(':') {
        // A colon before the last slash is the registry's port.
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => image.to_owned(),
    }
}

fn is_other_component(pod: &Pod, container: &Container) -> bool {
    let component = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("app.kubernetes.io/component"));
    let image = image(container);
    component.is_some_and(|component| OTHER_COMPONENTS.contains(&component.as_str()))
        || image.ends_with("-ui")
        || image.ends_with("-migrations")
}

fn names_configuration(container: &Container, environment: &Environment) -> bool {
    let arguments = environment.expand_all(container.args.as_ref());
    environment.get("CONFIG_FILE_PATH") != VariableValue::Absent
        || flag(&arguments, &["--config", "-c"])
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
    fn a_namespace_alone_never_makes_any_container_a_target() {
        let containers = "[{name: web, image: nginx, ports: [{containerPort: 80}]}, \
             {name: chat, image: open-webui, env: [{name: LITELLM_MASTER_KEY, value: x}]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(None));
        let containers =
            "[{name: web, image: 'registry.example.com:5000/proxy', ports: [{containerPort: 80}]}]";
        assert_eq!(find_in(containers, InjectionPolicy::ByNamespace), Ok(None));
        assert_eq!(find_in(containers, InjectionPolicy::Requested), Ok(Some(0)));
    }

    #[test]
    fn a_tag_or_digest_is_not_the_name_of_an_image() {
        let container = |image: &str| Container {
            image: Some(image.to_owned()),
            ..Container::default()
        };
        assert_eq!(
            image(&container("r:5000/a/LiteLLM-ui:v1@sha256:0")),
            "r:5000/a/litellm-ui"
        );
        assert_eq!(image(&container("r:5000/app")), "r:5000/app");
        assert_eq!(image(&container("app:litellm-1")), "app");
    }
}
