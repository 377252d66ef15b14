//! Variables that a start command sets: where, to what, and whether it is certain that LiteLLM gets them; and those that it
//! takes away, by `env -u` or in a script.

use k8s_openapi::api::core::v1::Container;

use super::environment::Environment;
use super::exec_wrapper::{program_name, unsets_variable};
use super::role::{Role, program};
use super::shell_script::{SimpleCommand, simple_commands, written_commands};

/// A place in a script that sets a variable, or seems to.
#[derive(Debug, PartialEq)]
pub(super) struct Assignment<'a> {
    /// The value as it is written, a quoted one to its closing quote.
    pub value: &'a str,
    /// Whether LiteLLM gets the value, and not perhaps another command, or none.
    pub is_certain: bool,
}

/// How a start command takes a variable away.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Removal {
    /// In a branch of a script, or in a script within it: whether LiteLLM lacks the variable cannot be read.
    Possible,
    Certain,
}

/// Scripts in the words of scripts that are looked into.
const MAX_DEPTH: usize = 3;

/// Whether the script sets this variable, as far as text alone tells.
pub(super) fn sets_variable(script: &str, name: &str) -> bool {
    !assignments(script, name).is_empty()
}

/// Whether the start command takes the variable away before LiteLLM, and sets it nowhere after that.
pub(super) fn removal(container: &Container, environment: &Environment, name: &str) -> Option<Removal> {
    if unsets(container, environment, name) {
        return Some(Removal::Certain);
    }
    let scripts = container.command.iter().chain(&container.args).flatten();
    scripts.filter_map(|script| removal_in(script, name, 0)).max()
}

/// By `unset`, or by taking it out of what programs get (`export -n`, `declare +x`).
fn removal_in(script: &str, name: &str, depth: usize) -> Option<Removal> {
    let commands = written_commands(script);
    let starts_litellm = |words: &Vec<&str>| words.iter().any(|word| word.contains("litellm"));
    // What comes behind LiteLLM changes nothing for it.
    let end = commands
        .iter()
        .rposition(starts_litellm)
        .unwrap_or(commands.len());
    let last = commands[..end].iter().rposition(|words| removes(words, name));
    if let Some(last) = last {
        let after = &commands[last + 1..];
        let sets = |word: &&str| {
            word.trim_start_matches(QUOTES)
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        };
        let is_set_again = after.iter().flatten().any(sets);
        return match is_set_again {
            // Then the list that is set counts.
            true => None,
            false if is_open(script, &commands) => Some(Removal::Possible),
            false => Some(Removal::Certain),
        };
    }
    let inner = commands.iter().flatten().filter_map(|word| {
        let inner = word.trim_matches(QUOTES);
        let is_script = inner.len() < script.len() && inner.contains(char::is_whitespace);
        (is_script && depth < MAX_DEPTH).then(|| removal_in(inner, name, depth + 1))?
    });
    inner.max().map(|_| Removal::Possible)
}

fn removes(words: &[&str], name: &str) -> bool {
    let Some((program, arguments)) = words.split_first() else {
        return false;
    };
    let has_option = |sign: char, option: char| {
        let mut options = arguments.iter().filter(|word| word.starts_with(sign));
        options.any(|word| word.contains(option))
    };
    let takes_away = match program_name(program) {
        "unset" => !has_option('-', 'f'),
        "export" => has_option('-', 'n'),
        "declare" | "typeset" | "local" => has_option('+', 'x'),
        _ => false,
    };
    let is_named = |word: &&str| word.trim_matches(QUOTES).split('=').next() == Some(name);
    takes_away && arguments.iter().any(is_named)
}

/// Whether an `env` before LiteLLM takes the variable away.
fn unsets(container: &Container, environment: &Environment, name: &str) -> bool {
    let words = [
        environment.expand_all(container.command.as_ref()),
        environment.expand_all(container.args.as_ref()),
    ]
    .concat();
    let of_litellm =
        |command: &SimpleCommand| matches!(program(&command.words, environment).0, Role::LiteLlm(_));
    unsets_variable(&words, name)
        || words.iter().flatten().any(|script| {
            let mut commands = simple_commands(script).into_iter().filter(of_litellm);
            commands.any(|command| unsets_variable(&command.words, name))
        })
}

/// Where the script sets this variable. Comments and what is printed set none.
pub(super) fn assignments<'a>(script: &'a str, name: &str) -> Vec<Assignment<'a>> {
    let commands = written_commands(script);
    let is_open = is_open(script, &commands);
    let mut found = Vec::new();
    for words in commands {
        let before_program = words.iter().take_while(|word| assigns(word)).count();
        let program = words.get(before_program).map(|word| program_name(word));
        if matches!(program, Some("echo" | "printf")) {
            continue;
        }
        let starts_litellm = words.iter().any(|word| word.contains("litellm"));
        for (index, word) in words.iter().enumerate() {
            let reaches_litellm = match program {
                None | Some("export" | "readonly" | "declare" | "typeset" | "local") => true,
                Some("env") => starts_litellm,
                Some(_) => starts_litellm && index < before_program,
            };
            let whole = word.trim_start_matches(QUOTES).strip_prefix(name);
            if let Some(value) = whole.and_then(|rest| rest.strip_prefix('=')) {
                found.push(Assignment {
                    value,
                    is_certain: reaches_litellm && !is_open,
                });
            } else {
                found.extend(inner_values(word, name).map(|value| Assignment {
                    value,
                    is_certain: false,
                }));
            }
        }
    }
    found
}

/// Whether not all of it runs: which branch does is not known, and the lines of a here-document are read as commands.
fn is_open(script: &str, commands: &[Vec<&str>]) -> bool {
    let tests = |words: &Vec<&str>| matches!(words.first(), Some(&("[" | "[[" | "test" | "case")));
    script.contains("<<") || commands.iter().any(tests)
}

const QUOTES: [char; 2] = ['"', '\''];

fn assigns(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
            && name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    })
}

/// What follows `NAME=` within a word, which may be a script of its own: as far as the next space.
fn inner_values<'a>(word: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let assignment = format!("{name}=");
    let places: Vec<usize> = word.match_indices(&assignment).map(|(at, _)| at).collect();
    places.into_iter().filter_map(move |at| {
        let before = word[..at].chars().next_back();
        let is_name = before.is_none_or(|letter| !(letter.is_alphanumeric() || letter == '_'));
        let value = &word[at + assignment.len()..];
        let end = value.find(|letter: char| letter.is_whitespace() || ";&|".contains(letter));
        is_name.then(|| &value[..end.unwrap_or(value.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(script: &str) -> Vec<(&str, bool)> {
        let assignments = assignments(script, "NAME").into_iter();
        assignments
            .map(|assignment| (assignment.value, assignment.is_certain))
            .collect()
    }

    #[test]
    fn a_quoted_value_goes_to_its_closing_quote() {
        assert_eq!(values("NAME=\"a, b\"; run"), [("\"a, b\"", true)]);
        assert_eq!(values("export NAME='a; b' OTHER=c"), [("'a; b'", true)]);
        assert_eq!(values("export \"NAME=a, b\" && run"), [("a, b\"", true)]);
    }

    #[test]
    fn a_script_takes_a_variable_away_before_litellm_where_it_sets_it_no_more() {
        for script in [
            "unset NAME; exec litellm",
            "unset -v OTHER NAME && litellm",
            "export -n NAME\nexec litellm",
            "declare +x NAME=a; litellm",
            "NAME=a; unset 'NAME'; exec \"$@\"",
        ] {
            assert_eq!(removal_in(script, "NAME", 0), Some(Removal::Certain), "{script}");
        }
        for script in [
            "if [ -n \"$A\" ]; then unset NAME; fi; litellm",
            "cat > /e <<EOF\nunset NAME\nEOF\nexec litellm",
            "bash -c 'unset NAME; litellm'",
        ] {
            assert_eq!(removal_in(script, "NAME", 0), Some(Removal::Possible), "{script}");
        }
        for script in [
            "unset -f NAME; litellm",
            "unset NAMES OTHER; litellm",
            "export NAME; litellm",
            "declare -x NAME; litellm",
            "unset NAME; export NAME=a; litellm",
            "litellm; unset NAME",
            "echo unset NAME; litellm",
            "# unset NAME\nlitellm",
            "$(unset NAME; litellm)",
        ] {
            assert_eq!(removal_in(script, "NAME", 0), None, "{script}");
        }
    }

    #[test]
    fn comments_and_what_is_printed_set_nothing() {
        for script in [
            "# NAME=a\nlitellm",
            "litellm # NAME=a",
            "echo \"NAME=a\"; litellm",
            "echo NAME=a >> /e; litellm",
            "if true; then printf 'NAME=%s' a; fi",
            "run $NAME",
            "MY_NAME=a run",
        ] {
            assert_eq!(values(script), [], "{script}");
            assert!(!sets_variable(script, "NAME"), "{script}");
        }
    }

    #[test]
    fn what_litellm_gets_is_certain_and_what_another_command_may_get_is_not() {
        for script in [
            "NAME=a litellm --port 1",
            "then NAME=a exec /usr/bin/litellm",
            "exec env OTHER=b NAME=a litellm",
            "NAME=a\nlitellm",
            "readonly NAME=a",
        ] {
            assert_eq!(values(script), [("a", true)], "{script}");
        }
        for script in [
            "NAME=a curl -O https://e; litellm",
            "env NAME=a apk add curl; litellm",
            "litellm --option NAME=a",
            "grep NAME=a /e",
            "if [ -z \"$NAME\" ]; then export NAME=a; fi; litellm",
            "[ -n \"$NAME\" ] || NAME=a\nlitellm",
            "cat > /e <<EOF\nNAME=a\nEOF\nlitellm",
            "eval \"export NAME=a; litellm\"",
        ] {
            assert_eq!(values(script), [("a", false)], "{script}");
            assert!(sets_variable(script, "NAME"), "{script}");
        }
    }
}
