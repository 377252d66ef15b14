//! The role of a container: what it runs, by its command and arguments, and what LiteLLM gets of them. Image
//! and environment decide only where those leave it open: LiteLLM has one image for all its components, and a
//! mirror may call it anything.

use k8s_openapi::api::core::v1::Container;

use super::command_line::{Words, flag};
use super::environment::{Environment, VariableValue};
use super::environment_source;
use super::exec_wrapper::{after_double_dash, program_name, unwrap_exec};
use super::shell_script::{expanded_commands, only_expands};

/// What a container runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// LiteLLM's proxy, gateway or backend.
    LiteLlm(Start),
    /// A word that makes the entrypoint of LiteLLM's image start one of those, but that other images may take
    /// too.
    Named(Start),
    /// The image's entrypoint, with options or nothing: nothing in the words says what it is.
    Entrypoint,
    /// A shell script in which no command is LiteLLM, as far as can be read.
    Shell,
    /// A program that is not known, and may start LiteLLM.
    Program,
    /// Nothing that serves LiteLLM's API.
    Other,
}

/// What LiteLLM is started by, which decides what its options mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Start {
    /// LiteLLM's command line, which also takes configuration as options.
    CommandLine,
    /// LiteLLM's launcher of a component.
    Launcher,
    /// An ASGI server that knows `--host` and `--port`.
    Server,
    /// An ASGI server that takes its address by other options, of which a second one does not replace the
    /// first.
    BindServer,
}

/// How arguments that are added reach LiteLLM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ArgumentsPlace {
    /// Behind the container's own.
    Appended,
    /// In the text of a shell script.
    InScript(ScriptPlace),
    /// Not at all.
    Unreachable,
}

/// A place in a shell script.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ScriptPlace {
    /// Whether the script is a word of the container's command, else of its arguments.
    pub in_command: bool,
    /// Index of that word.
    pub index: usize,
    /// Byte position in it, behind the last of LiteLLM's arguments.
    pub at: usize,
}

/// What a container runs, and with which words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Invocation {
    pub role: Role,
    /// The words that LiteLLM gets, without those of wrappers and shells around it; hidden ones `None`.
    pub words: Vec<Option<String>>,
    pub arguments: ArgumentsPlace,
    /// What brings variables that the pod does not show, as an error names it.
    pub environment_source: Option<String>,
}

/// The ASGI applications of LiteLLM.
const APPLICATIONS: [&str; 3] = [
    "litellm.proxy.proxy_server:app",
    "gateway.main:app",
    "backend.main:app",
];
/// Options of LiteLLM's command line with which it serves nothing: it asks a LiteLLM that runs already, or says something of
/// itself.
const ENDING_OPTIONS: [&str; 6] = ["--health", "--help", "--test", "--test_async", "--version", "-v"];
/// The Python module that starts a component with the arguments it gets.
const LAUNCHER: &str = "gateway.launch";
/// The Python module of LiteLLM's command line, and its script.
const COMMAND_LINE_MODULE: &str = "litellm.proxy.proxy_cli";
const COMMAND_LINE_SCRIPT: &str = "litellm/proxy/proxy_cli.py";
/// The Python module with LiteLLM's application.
const SERVER_MODULE: &str = "litellm.proxy.proxy_server";

pub(super) fn invocation(container: &Container, environment: &Environment) -> Invocation {
    let command = environment.expand_all(container.command.as_ref());
    let arguments = environment.expand_all(container.args.as_ref());
    let words = [command.clone(), arguments.clone()].concat();
    let (role, rest) = if command.is_empty() {
        entrypoint(&words, environment)
    } else {
        program(&words, environment)
    };
    // Collector and worker are started like a backend; this variable is the only difference.
    let is_other_job = matches!(
        environment.get("LITELLM_JOB_ROLE"),
        VariableValue::Literal(job) if matches!(job.as_str(), "collector" | "worker")
    );
    let environment_source = environment_source::of_wrappers(&words, rest.len(), environment);
    let invocation = |role, arguments| Invocation {
        role,
        words: rest.to_vec(),
        arguments,
        environment_source: environment_source.clone(),
    };
    let found = match role {
        _ if is_other_job => invocation(Role::Other, ArgumentsPlace::Appended),
        Role::Shell => match script(container, environment, rest, environment_source.is_none()) {
            Some(in_script) => Invocation {
                environment_source: environment_source.or(in_script.environment_source),
                ..in_script
            },
            None => invocation(Role::Shell, ArgumentsPlace::Unreachable),
        },
        role => invocation(role, ArgumentsPlace::Appended),
    };
    // LiteLLM loads the file itself: scripts see the variables of the container as these are.
    Invocation {
        environment_source: found
            .environment_source
            .or_else(|| environment_source::of_mounted_file(container, environment)),
        ..found
    }
}

/// The entrypoint of LiteLLM's image: the first word is a component of LiteLLM, an option for its proxy, or a
/// program.
fn entrypoint<'a>(words: Words<'a>, environment: &Environment) -> (Role, Words<'a>) {
    let Some(first) = words.first() else {
        return (component(environment), words);
    };
    let Some(first) = first else {
        return (Role::Program, words);
    };
    let role = match first.as_str() {
        // LiteLLM takes options only; the `proxy` of others has subcommands (`proxy sidecar` is Istio's).
        "proxy" | "gateway" | "backend" => match words.get(1) {
            Some(Some(second)) if !second.starts_with('-') => Role::Other,
            _ if first == "proxy" => Role::Named(Start::CommandLine),
            _ => Role::Named(Start::Launcher),
        },
        "ui" | "migrations" | "metrics" | "collector" => Role::Other,
        option if option.starts_with('-') => {
            let is_agent = |word: &String| word == "--admin-agent" || word.starts_with("--admin-agent=");
            if words.iter().flatten().any(is_agent) {
                Role::Other
            } else {
                component(environment)
            }
        }
        _ => return program(words, environment),
    };
    (role, words)
}

/// Where the words leave it open, the entrypoint of LiteLLM's image reads the component from a variable.
fn component(environment: &Environment) -> Role {
    match environment.get("LITELLM_COMPONENT") {
        VariableValue::Literal(name) if name == "proxy" => Role::LiteLlm(Start::CommandLine),
        VariableValue::Literal(name) if matches!(name.as_str(), "gateway" | "backend") => {
            Role::LiteLlm(Start::Launcher)
        }
        VariableValue::Literal(name) if !name.is_empty() => Role::Other,
        _ => Role::Entrypoint,
    }
}

/// The role of a command line, and the words from the program on that is behind all wrappers.
pub(super) fn program<'a>(words: Words<'a>, environment: &Environment) -> (Role, Words<'a>) {
    let mut rest = words;
    loop {
        if let Some(inner) = unwrap_exec(rest) {
            rest = inner;
            continue;
        }
        let Some((Some(first), after)) = rest.split_first() else {
            return (Role::Program, words);
        };
        let role = match program_name(first) {
            "docker-entrypoint.sh" => return entrypoint(after, environment),
            "prod_entrypoint.sh" | "litellm" => command_line(after),
            "uvicorn" | "granian" => application(after, Start::Server),
            "gunicorn" | "hypercorn" => application(after, Start::BindServer),
            name if name.starts_with("python") => python(after),
            // Behind `uv run`.
            "-m" | "--module" => python(rest),
            "sh" | "bash" | "ash" | "dash" | "busybox" => return (Role::Shell, rest),
            _ => Role::Program,
        };
        if role != Role::Program {
            return (role, rest);
        }
        // An unknown program with `--` before a known start of LiteLLM is one more wrapper.
        let behind = after_double_dash(rest).map(|inner| program(inner, environment));
        return match behind {
            Some((Role::LiteLlm(start), inner)) => (Role::LiteLlm(start), inner),
            _ => (Role::Program, words),
        };
    }
}

/// LiteLLM's command line, which with some options does one thing and ends.
fn command_line(after: Words) -> Role {
    let ends = |word: &String| ENDING_OPTIONS.contains(&word.split('=').next().unwrap_or_default());
    match after.iter().flatten().any(ends) {
        true => Role::Other,
        false => Role::LiteLlm(Start::CommandLine),
    }
}

fn python(words: Words) -> Role {
    let mut rest = behind_python_options(words);
    match rest.next().map(String::as_str) {
        Some("-m" | "--module") => match rest.next().map(String::as_str) {
            Some("uvicorn" | "granian") => application(words, Start::Server),
            Some("gunicorn" | "hypercorn") => application(words, Start::BindServer),
            Some(LAUNCHER) => Role::LiteLlm(Start::Launcher),
            Some(COMMAND_LINE_MODULE) => Role::LiteLlm(Start::CommandLine),
            // Debuggers, tracers and the like run the module or the program that their words name.
            Some(_) if rest.any(|word| word == COMMAND_LINE_MODULE || program_name(word) == "litellm") => {
                Role::Program
            }
            _ => Role::Other,
        },
        // What follows the code are its arguments.
        Some("-c") => match rest.next() {
            Some(code) if code.contains(COMMAND_LINE_MODULE) && code.contains("run_server") => {
                Role::LiteLlm(Start::CommandLine)
            }
            Some(code) if code.contains(COMMAND_LINE_MODULE) || code.contains(SERVER_MODULE) => Role::Program,
            _ => Role::Other,
        },
        Some(script) if script.ends_with("/bin/litellm") || script.ends_with(COMMAND_LINE_SCRIPT) => {
            Role::LiteLlm(Start::CommandLine)
        }
        // Other programs of LiteLLM's own, such as its migrations.
        Some(script) if script.contains("litellm/proxy/") => Role::Other,
        Some(_) => Role::Program,
        None => Role::Other,
    }
}

/// What comes behind Python's own options. The word of one that takes a word may be unknown; another unknown word is
/// passed over.
fn behind_python_options(words: Words<'_>) -> impl Iterator<Item = &String> {
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = match word.as_deref() {
            None => after,
            Some("-W" | "-X") => after.get(1..).unwrap_or_default(),
            Some(option) if option.starts_with('-') && !["-m", "--module", "-c"].contains(&option) => after,
            Some(_) => break,
        };
    }
    rest.iter().flatten()
}

/// What an ASGI server serves.
fn application(words: Words, start: Start) -> Role {
    let serves_litellm = words
        .iter()
        .flatten()
        .any(|word| APPLICATIONS.contains(&word.as_str()));
    if serves_litellm {
        Role::LiteLlm(start)
    } else {
        Role::Other
    }
}

/// LiteLLM in a shell script, where one of its commands is LiteLLM. `words` begin with the shell. `has_own_variables`:
/// the script sees the variables of the container as these are.
fn script(
    container: &Container,
    environment: &Environment,
    words: Words,
    has_own_variables: bool,
) -> Option<Invocation> {
    let at_script = script_index(words)?;
    let command = container.command.as_deref().unwrap_or_default();
    let arguments = container.args.as_deref().unwrap_or_default();
    let position = command.len() + arguments.len() - words.len() + at_script;
    let in_command = position < command.len();
    let index = if in_command {
        position
    } else {
        position - command.len()
    };
    // As it is written: `$(...)` is the shell's where Kubernetes knows no such variable.
    let text = if in_command {
        command.get(index)
    } else {
        arguments.get(index)
    }?;
    let litellm = |command: &super::shell_script::SimpleCommand| match program(&command.words, environment) {
        (Role::LiteLlm(start), rest) => Some((start, rest.to_vec())),
        _ => None,
    };
    let variable = |name: &str| {
        let value = environment.get_or_hidden(name);
        match value {
            VariableValue::Literal(value) if has_own_variables && only_expands(text, name) => Some(value),
            _ => None,
        }
    };
    let commands = expanded_commands(text, &variable);
    let mut found = commands
        .iter()
        .filter_map(|command| litellm(command).map(|(start, words)| (command, start, words)));
    let (command, start, litellm_words) = found.next()?;
    let role = Role::LiteLlm(start);
    let environment_source =
        environment_source::of_wrappers(&command.words, litellm_words.len(), environment).or_else(|| {
            environment_source::of_script(commands.iter().take_while(|before| before.end < command.end))
        });
    // Behind the script comes its own name, then its arguments.
    let passed = words.get(at_script + 2..);
    // In a function they are what the function is called with.
    if command.passes_arguments && text.contains("()") {
        let place = ScriptPlace {
            in_command,
            index,
            at: command.end,
        };
        return Some(Invocation {
            role,
            words: [&litellm_words, &[None][..]].concat(),
            arguments: ArgumentsPlace::InScript(place),
            environment_source,
        });
    }
    let others: Vec<Vec<Option<String>>> = found.map(|(_, _, words)| words).collect();
    let (words, arguments) = match passed {
        // One of several branches, or a first try: which one runs cannot be read.
        _ if !others.is_empty() => (
            with_open_configuration(litellm_words, &others),
            ArgumentsPlace::Unreachable,
        ),
        Some(passed) if command.passes_arguments => {
            ([&litellm_words, passed].concat(), ArgumentsPlace::Appended)
        }
        _ => {
            let place = ScriptPlace {
                in_command,
                index,
                at: command.end,
            };
            (litellm_words, ArgumentsPlace::InScript(place))
        }
    };
    Some(Invocation {
        role,
        words,
        arguments,
        environment_source,
    })
}

/// The words of the first of several commands; where they name different configurations, with a hidden one.
fn with_open_configuration(
    mut first: Vec<Option<String>>,
    others: &[Vec<Option<String>>],
) -> Vec<Option<String>> {
    let configuration = |words: &[Option<String>]| flag(words, &["--config", "-c"]);
    let of_first = configuration(&first);
    if others.iter().any(|words| configuration(words) != of_first) {
        first.extend([Some("--config".to_owned()), None]);
    }
    first
}

/// Index of the script among the words of a shell with the option `-c`: the first word that is no option.
fn script_index(words: Words) -> Option<usize> {
    let mut index = 1;
    let mut has_script = false;
    loop {
        // A script may hold what looks like a reference to a variable.
        let Some(word) = words.get(index)?.as_deref() else {
            return has_script.then_some(index);
        };
        let Some(options) = word.strip_prefix(['-', '+']) else {
            // The applet of busybox.
            if index == 1 && matches!(word, "sh" | "ash") {
                index += 1;
                continue;
            }
            return has_script.then_some(index);
        };
        index += 1;
        match options {
            // The end of the options.
            "" | "-" => return (has_script && index < words.len()).then_some(index),
            "-rcfile" | "-init-file" => index += 1,
            long if long.starts_with('-') => {}
            short => {
                has_script |= short.contains('c');
                // Each takes the name of an option, as in `-euo pipefail`.
                index += short.matches(['o', 'O']).count();
            }
        }
    }
}

#[cfg(test)]
mod tests;
