//! The command line that a container starts with, as the kubelet expands it, and the options on it.

use k8s_openapi::api::core::v1::Container;

use super::environment::Environment;
use super::shell_script::{SimpleCommand, simple_commands};

/// Words of a container's command and arguments, hidden ones `None`.
pub(super) type Words<'a> = &'a [Option<String>];

/// The words of command and arguments, `None` where one depends on a hidden value.
pub(super) fn command_words(container: &Container, environment: &Environment) -> Vec<Option<String>> {
    [
        environment.expand_all(container.command.as_ref()),
        environment.expand_all(container.args.as_ref()),
    ]
    .concat()
}

/// Options of wrappers by which what they run starts in another folder.
const FOLDER_OPTIONS: [&str; 4] = ["-C", "--chdir", "--directory", "--cwd"];

/// Whether LiteLLM may start in another folder than its container does.
pub(super) fn may_change_folder(container: &Container) -> bool {
    let mut words = container.command.iter().chain(&container.args).flatten();
    words.any(|word| {
        let option = word.split('=').next().unwrap_or_default();
        let changes = |command: &SimpleCommand| {
            let mut words = command.words.iter().map(Option::as_deref);
            matches!(words.next().flatten(), Some("cd" | "pushd"))
                || words
                    .flatten()
                    .any(|word| FOLDER_OPTIONS.contains(&word.split('=').next().unwrap_or_default()))
        };
        FOLDER_OPTIONS.contains(&option) || simple_commands(word).iter().any(changes)
    })
}

/// Value of the last of these options, `Some(None)` if it is hidden.
pub(super) fn flag(command_words: &[Option<String>], names: &[&str]) -> Option<Option<String>> {
    let mut value = None;
    for (index, word) in command_words.iter().enumerate() {
        let Some(word) = word else {
            continue;
        };
        if names.contains(&word.as_str()) {
            value = command_words.get(index + 1).cloned().or(value);
        } else if let Some((name, inline_value)) = word.split_once('=')
            && name.starts_with("--")
            && names.contains(&name)
        {
            value = Some(Some(inline_value.to_owned()));
        }
    }
    value
}
