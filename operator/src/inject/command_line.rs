//! The command line that a container starts with, as the kubelet expands it, and the options on it.

use k8s_openapi::api::core::v1::Container;

use super::environment::Environment;

/// Command and arguments.
pub(super) fn words(container: &Container, environment: &Environment) -> Vec<Option<String>> {
    [
        environment.words(container.command.as_ref()),
        environment.words(container.args.as_ref()),
    ]
    .concat()
}

/// Value of the last of these options, `Some(None)` if it is hidden.
pub(super) fn flag(words: &[Option<String>], names: &[&str]) -> Option<Option<String>> {
    let mut found = None;
    for (at, word) in words.iter().enumerate() {
        let Some(word) = word else {
            continue;
        };
        if names.contains(&word.as_str()) {
            found = words.get(at + 1).cloned().or(found);
        } else if let Some((name, value)) = word.split_once('=')
            && name.starts_with("--")
            && names.contains(&name)
        {
            found = Some(Some(value.to_owned()));
        }
    }
    found
}
