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

/// Value of the last of these options, `Some(None)` if it is hidden. That of a short one may stand in the same word, as
/// in `-c/app/config.yaml`.
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
        } else if let Some(attached) = names.iter().find_map(|name| attached_value(word, name)) {
            value = Some(Some(attached.to_owned()));
        }
    }
    value
}

/// The value of a short option in the same word. LiteLLM's parser (click) takes whatever follows the letter for it, an
/// equals sign too.
pub(super) fn attached_value<'a>(word: &'a str, option: &str) -> Option<&'a str> {
    let is_short = option.len() == 2 && !option.ends_with('-');
    let value = word.strip_prefix(option).filter(|value| !value.is_empty());
    value.filter(|_| is_short)
}
