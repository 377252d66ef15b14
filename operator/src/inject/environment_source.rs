//! What brings variables into LiteLLM's environment that the pod does not show: tools that run LiteLLM with secrets or
//! with the variables of a file, files that a start script sources, and one that LiteLLM loads itself. One of them may be
//! `CONFIG_FILE_PATH`.

use k8s_openapi::api::core::v1::Container;

use super::command_line::Words;
use super::environment::{Environment, VariableValue};
use super::exec_wrapper::{after_double_dash, program_name, unwrap_exec};
use super::shell_script::SimpleCommand;

/// Tools that set variables which the container does not name. Those that only put values in place of references in
/// variables that are set (`secrets-init`, `ssm-env`, `berglas`) are not among them.
const TOOLS: [&str; 13] = [
    "vault-env",
    "aws-env",
    "secrets-env",
    "doppler",
    "op",
    "infisical",
    "chamber",
    "teller",
    "phase",
    "bws",
    "summon",
    "dotenv",
    "envdir",
];
/// The prefix of options that name a file of variables, and the variable by which uv is told of one.
const FILE_OPTION: &str = "--env-file";
const UV_FILE: &str = "UV_ENV_FILE";
/// LiteLLM's mode, and the one, which is its default, in which it loads a file of variables.
const MODE: &str = "LITELLM_MODE";
const LOADING_MODE: &str = "DEV";

/// What the wrapper brings in, of those between the beginning of these words and the program's own, which are the last.
pub(super) fn of_wrappers(words: Words, program_words: usize, environment: &Environment) -> Option<String> {
    let mut rest = words;
    while rest.len() > program_words {
        let inner = unwrap_exec(rest).or_else(|| after_double_dash(rest))?;
        // A wrapper without a command, or one that is the program itself.
        let own = rest.get(..rest.len().checked_sub(inner.len().max(program_words))?)?;
        let name = own.first()?.as_deref().map(program_name)?;
        let names_file = own.iter().flatten().any(|word| word.starts_with(FILE_OPTION));
        let is_uv_with_file = matches!(name, "uv" | "uvx") && environment.is_set(UV_FILE);
        if names_file || is_uv_with_file || TOOLS.contains(&name) {
            return Some(format!("what {name} brings into the environment"));
        }
        rest = inner;
    }
    None
}

/// What the script of LiteLLM brings in by the commands before it.
pub(super) fn of_script<'a>(mut before: impl Iterator<Item = &'a SimpleCommand>) -> Option<String> {
    let sources = |command: &SimpleCommand| {
        let first = command.words.first().and_then(Option::as_deref);
        matches!(first, Some("." | "source"))
    };
    before
        .any(sources)
        .then(|| "a file sourced by the start script".to_owned())
}

/// A mounted `.env`. LiteLLM loads the first that it finds from the folder of its package upwards (`load_dotenv`), which is
/// `/app/.env` or `/.env` in its images, unless this variable says another mode.
pub(super) fn of_mounted_file(container: &Container, environment: &Environment) -> Option<String> {
    let mode = environment.get(MODE);
    let loads_none = matches!(mode, VariableValue::Literal(mode) if mode != LOADING_MODE);
    let mut paths = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| mount.mount_path.as_str());
    let file = paths.find(|path| path.rsplit('/').next() == Some(".env"))?;
    (!loads_none).then(|| format!("the file {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn source(yaml: &str) -> Option<String> {
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
        invocation(&container, &Environment::from_container(&container)).environment_source
    }

    #[test]
    fn a_wrapper_that_brings_variables_is_named() {
        for (line, name) in [
            ("uv, run, --env-file, /secrets/.env, litellm", "uv"),
            ("uv, run, --env-file=/secrets/.env, --, litellm", "uv"),
            ("tini, --, uvx, --env-file, .env, litellm", "uvx"),
            ("op, run, --env-file=/secrets/.env, --, litellm", "op"),
            ("dotenv, -f, /secrets/.env, run, --, litellm", "dotenv"),
            ("/usr/bin/doppler, run, --, litellm", "doppler"),
            ("chamber, exec, x, --, litellm", "chamber"),
            ("infisical, run, --, litellm", "infisical"),
            ("/vault/vault-env, litellm", "vault-env"),
            ("vault-env, docker/prod_entrypoint.sh", "vault-env"),
            ("own-tool, --env-file, .env, --, litellm", "own-tool"),
            ("doppler, run, --, sh, -c, exec litellm", "doppler"),
            ("sh, -c, exec doppler run -- litellm --port 4000", "doppler"),
        ] {
            let expected = format!("what {name} brings into the environment");
            assert_eq!(source(&format!("command: [{line}]")), Some(expected), "{line}");
        }
        let split = "command: [/vault/vault-env], args: [litellm, --port, '4000']";
        assert!(source(split).is_some());
        let by_variable = "command: [uv, run, litellm], env: [{name: UV_ENV_FILE, value: .env}]";
        assert!(source(by_variable).is_some());
    }

    #[test]
    fn a_script_that_sources_a_file_before_litellm_is_named() {
        for (script, expected) in [
            (". /vault/secrets/env && litellm", true),
            ("set -a; source /secrets/.env; exec litellm --port 4000", true),
            ("[ -f /e ] && . /e\nlitellm", true),
            ("litellm; . /secrets/.env", false),
            ("echo source; litellm", false),
        ] {
            let yaml = format!("command: [sh, -c, {script:?}]");
            let found = source(&yaml);
            let named = expected.then(|| "a file sourced by the start script".to_owned());
            assert_eq!(found, named, "{script}");
        }
    }

    #[test]
    fn a_mounted_file_that_litellm_loads_is_named_unless_its_mode_is_another() {
        let mounts = "args: [--port, '4000'], volumeMounts: [{name: e, mountPath: /app/.env, subPath: .env}]";
        let named = Some("the file /app/.env".to_owned());
        assert_eq!(source(mounts), named);
        assert_eq!(
            source(&format!("{mounts}, env: [{{name: LITELLM_MODE, value: DEV}}]")),
            named
        );
        let other = format!("{mounts}, env: [{{name: LITELLM_MODE, value: PRODUCTION}}]");
        assert_eq!(source(&other), None);
        assert_eq!(
            source("volumeMounts: [{name: e, mountPath: /app/prod.env}]"),
            None
        );
    }

    #[test]
    fn other_wrappers_bring_nothing() {
        for line in [
            "litellm",
            "uv, run, --frozen, litellm",
            "tini, --, ddtrace-run, litellm",
            "own-tool, --verbose, --, litellm",
            "litellm, --port, '4000', --, op",
            "sh, -c, exec litellm",
            "secrets-init, litellm",
        ] {
            assert_eq!(source(&format!("command: [{line}]")), None, "{line}");
        }
    }
}
