//! Entries of a container's `env`, as they are written and found.

use k8s_openapi::api::core::v1::{Container, EnvVar};

use super::environment::{Environment, VariableValue, escape};

/// A variable with exactly this value.
pub(super) fn literal(name: &str, value: &str) -> EnvVar {
    unescaped(name, escape(value))
}

/// A variable with a value in which the kubelet replaces `$(NAME)`.
pub(super) fn unescaped(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}

/// A variable of the container's by another name, for the sidecar. `None` where it is not set, or where the pod does not
/// show it.
pub(super) fn copied(container: &Container, name: &str, new_name: &str) -> Option<EnvVar> {
    let entries = container.env.as_deref().unwrap_or_default();
    // The last one is what the process sees.
    let entry = &entries[entry_indexes(entries, name).pop()?];
    if entry.value_from.is_some() {
        return Some(EnvVar {
            name: new_name.to_owned(),
            ..entry.clone()
        });
    }
    match Environment::from_container(container).get(name) {
        VariableValue::Literal(value) => Some(literal(new_name, &value)),
        VariableValue::Absent | VariableValue::Hidden => None,
    }
}

/// Indexes of the entries of this name.
pub(super) fn entry_indexes(entries: &[EnvVar], name: &str) -> Vec<usize> {
    entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.name == name)
        .map(|(index, _)| index)
        .collect()
}
