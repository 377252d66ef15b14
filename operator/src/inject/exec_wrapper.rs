//! Exec wrappers: programs that run the words after their own options, so that LiteLLM stands behind them:
//! init processes, tracers, environment managers, and tools that bring secrets.

use super::command_line::Words;
use super::litellm_options::CONFIG_FILE_PATH;

/// How a wrapper's own words end.
struct Wrapper {
    names: &'static [&'static str],
    /// The word after which the command comes, if there has to be one.
    subcommand: Option<&'static str>,
    /// Words besides options that stand before the command.
    positionals: usize,
    options: OptionValues,
}

enum OptionValues {
    /// Only these have a value as the next word.
    Of(&'static [&'static str]),
    /// Every option has one, unless it holds `=`.
    All,
}

const fn wrapper(
    names: &'static [&'static str],
    subcommand: Option<&'static str>,
    positionals: usize,
    options: &'static [&'static str],
) -> Wrapper {
    Wrapper {
        names,
        subcommand,
        positionals,
        options: OptionValues::Of(options),
    }
}

static WRAPPERS: [Wrapper; 26] = [
    // Init processes.
    wrapper(
        &["tini", "tini-static", "dumb-init"],
        None,
        0,
        &["-p", "-e", "-r", "--rewrite"],
    ),
    wrapper(
        &[
            "catatonit",
            "nohup",
            "setsid",
            "with-contenv",
            "nvidia_entrypoint.sh",
            "component_entrypoint.sh",
        ],
        None,
        0,
        &[],
    ),
    // Users and priorities.
    wrapper(
        &["gosu", "su-exec", "s6-setuidgid", "envdir", "taskset"],
        None,
        1,
        &[],
    ),
    wrapper(
        &["nice", "ionice"],
        None,
        0,
        &["-n", "--adjustment", "-c", "--class", "--classdata"],
    ),
    wrapper(
        &["setpriv"],
        None,
        0,
        &[
            "--reuid",
            "--regid",
            "--groups",
            "--inh-caps",
            "--ambient-caps",
            "--bounding-set",
            "--securebits",
        ],
    ),
    wrapper(
        &["numactl"],
        None,
        0,
        &[
            "-i",
            "-N",
            "-m",
            "-C",
            "-p",
            "--interleave",
            "--cpunodebind",
            "--membind",
            "--physcpubind",
        ],
    ),
    wrapper(&["time"], None, 0, &["-f", "--format", "-o", "--output"]),
    wrapper(&["timeout"], None, 1, &["-k", "--kill-after", "-s", "--signal"]),
    wrapper(
        &["stdbuf"],
        None,
        0,
        &["-i", "-o", "-e", "--input", "--output", "--error"],
    ),
    // Tracers.
    wrapper(&["ddtrace-run"], None, 0, &[]),
    Wrapper {
        names: &["opentelemetry-instrument"],
        subcommand: None,
        positionals: 0,
        options: OptionValues::All,
    },
    wrapper(&["newrelic-admin"], Some("run-program"), 0, &[]),
    // Python's environments.
    wrapper(
        &["uv"],
        Some("run"),
        0,
        &[
            "--with",
            "--with-editable",
            "--with-requirements",
            "--python",
            "-p",
            "--project",
            "--directory",
            "--env-file",
            "--package",
            "--extra",
            "--group",
            "--no-group",
            "--only-group",
            "--no-extra",
            "--index",
            "--default-index",
            "--index-url",
            "-i",
            "--extra-index-url",
            "--find-links",
            "-f",
            "--config-file",
            "--cache-dir",
            "--color",
            "--link-mode",
            "--refresh-package",
            "--upgrade-package",
        ],
    ),
    wrapper(
        &["uvx"],
        None,
        0,
        &["--from", "--with", "--python", "-p", "--index", "--env-file"],
    ),
    wrapper(
        &["poetry", "pdm"],
        Some("run"),
        0,
        &["-C", "--directory", "-P", "-p", "--project"],
    ),
    wrapper(&["pipenv", "rye"], Some("run"), 0, &[]),
    wrapper(
        &["hatch", "pixi"],
        Some("run"),
        0,
        &["-e", "--env", "--environment", "--manifest-path"],
    ),
    wrapper(
        &["conda", "mamba", "micromamba"],
        Some("run"),
        0,
        &["-n", "--name", "-p", "--prefix", "--cwd"],
    ),
    wrapper(&["dotenv"], Some("run"), 0, &["-f", "--file"]),
    // Secrets.
    wrapper(
        &["vault-env", "secrets-init", "aws-env", "ssm-env", "secrets-env"],
        None,
        0,
        &[],
    ),
    wrapper(
        &["doppler"],
        Some("run"),
        0,
        &[
            "--project",
            "-p",
            "--config",
            "-c",
            "--token",
            "-t",
            "--mount",
            "--mount-format",
            "--mount-template",
            "--mount-max-reads",
            "--fallback",
            "--name-transformer",
            "--scope",
            "--api-host",
            "--attempts",
        ],
    ),
    wrapper(
        &["op"],
        Some("run"),
        0,
        &["--env-file", "--account", "--environment", "--config"],
    ),
    wrapper(
        &["infisical"],
        Some("run"),
        0,
        &[
            "--env",
            "-e",
            "--path",
            "--projectId",
            "--token",
            "--tags",
            "-t",
            "--domain",
        ],
    ),
    wrapper(
        &["teller", "phase", "bws"],
        Some("run"),
        0,
        &["-c", "--config", "--app", "--env", "--path"],
    ),
    wrapper(&["berglas"], Some("exec"), 0, &["--local"]),
    wrapper(
        &["summon"],
        None,
        0,
        &["-f", "-p", "-D", "-e", "--provider", "--environment"],
    ),
];

/// The words that a wrapper runs; `None` if the first word is no known wrapper, and empty if it runs none.
pub(super) fn unwrap_exec(words: Words) -> Option<Words> {
    if replaces_environment(words) {
        return None;
    }
    let (first, after) = words.split_first()?;
    let name = program_name(first.as_deref()?);
    if name == "env" {
        return Some(after_assignments(after));
    }
    let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name))?;
    let mut rest = wrapper.after_options(after);
    if let Some(subcommand) = wrapper.subcommand {
        let Some((Some(word), after)) = rest.split_first() else {
            return Some(&[]);
        };
        if word != subcommand {
            return Some(&[]);
        }
        rest = wrapper.after_options(after);
    }
    for _ in 0..wrapper.positionals {
        rest = rest.split_first().map_or(rest, |(_, after)| after);
    }
    Some(match rest.split_first() {
        Some((Some(word), after)) if word == "--" => after,
        _ => rest,
    })
}

/// Whether a program runs the words after its own in another environment, in which what injection sets is lost, or the
/// variable that names the configuration. Other variables are lost only where the plan needs them.
fn replaces_environment(words: Words) -> bool {
    let Some((Some(first), after)) = words.split_first() else {
        return false;
    };
    let name = program_name(first);
    match name {
        "sudo" | "doas" => true,
        "su" | "runuser" => own_words(after).any(|word| matches!(word, "-" | "-l" | "--login")),
        "setpriv" => own_words(after).any(|word| word == "--reset-env"),
        "env" => unset_variables(after).is_none_or(|names| names.contains(&CONFIG_FILE_PATH)),
        _ => false,
    }
}

/// Whether an `env` among these words takes the variable away.
pub(super) fn unsets_variable(words: Words, name: &str) -> bool {
    let is_env = |word: &Option<String>| word.as_deref().map(program_name) == Some("env");
    let mut places = (0..words.len()).filter(|at| is_env(&words[*at]));
    places.any(|at| unset_variables(&words[at + 1..]).is_some_and(|names| names.contains(&name)))
}

/// What `env` takes out of the environment, by the words after its name. `None` where it clears it, and where one word
/// holds a whole command line, which is not taken apart.
fn unset_variables(after: Words<'_>) -> Option<Vec<&str>> {
    let mut unset = Vec::new();
    let mut before = "";
    for word in own_words(after) {
        let is_value = matches!(before, "-u" | "--unset" | "-C" | "--chdir");
        if !is_value && !word.starts_with('-') && !word.contains('=') {
            break;
        }
        let is_cleared = matches!(word, "-" | "-i" | "--ignore-environment");
        if is_cleared || word.starts_with("-S") || word.starts_with("--split-string") {
            return None;
        }
        unset.extend(match before {
            "-u" | "--unset" => Some(word),
            _ => word.strip_prefix("--unset=").or_else(|| word.strip_prefix("-u")),
        });
        before = word;
    }
    Some(unset)
}

/// The words before `--`, as far as they are known.
fn own_words(words: Words<'_>) -> impl Iterator<Item = &str> {
    words
        .iter()
        .map_while(|word| word.as_deref().filter(|word| *word != "--"))
}

/// What follows `--`: an unknown program that has one may be a wrapper too.
pub(super) fn after_double_dash(words: Words) -> Option<Words> {
    if replaces_environment(words) {
        return None;
    }
    let at = words.iter().position(|word| word.as_deref() == Some("--"))?;
    words.get(at + 1..)
}

/// The last segment of a program's path.
pub(super) fn program_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or_default()
}

impl Wrapper {
    fn after_options<'a>(&self, words: Words<'a>) -> Words<'a> {
        let mut rest = words;
        while let Some((Some(word), after)) = rest.split_first() {
            let is_module = self.names.contains(&"uv") && matches!(word.as_str(), "-m" | "--module");
            if word == "--" || !word.starts_with('-') || is_module {
                return rest;
            }
            let has_value = !word.contains('=')
                && match self.options {
                    OptionValues::All => true,
                    OptionValues::Of(options) => options.contains(&word.as_str()),
                };
            rest = match (has_value, after.split_first()) {
                (true, Some((_, after))) => after,
                _ => after,
            };
        }
        rest
    }
}

fn after_assignments(words: Words) -> Words {
    let mut rest = words;
    while let Some((Some(word), after)) = rest.split_first() {
        rest = match word.as_str() {
            "--" => return after,
            "-u" | "--unset" | "-C" | "--chdir" => after.split_first().map_or(after, |(_, after)| after),
            word if word.starts_with('-') || word.contains('=') => after,
            _ => return rest,
        };
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwrapped(line: &str) -> Option<String> {
        let words: Vec<Option<String>> = line.split(' ').map(|word| Some(word.to_owned())).collect();
        let rest = unwrap_exec(&words)?;
        Some(
            rest.iter()
                .flatten()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    #[test]
    fn a_module_behind_uv_is_left_for_python() {
        for (line, expected) in [
            (
                "uv run -m litellm.proxy.proxy_cli --port 1",
                "-m litellm.proxy.proxy_cli --port 1",
            ),
            (
                "uv run --no-sync --module uvicorn x:app",
                "--module uvicorn x:app",
            ),
            ("uv run --with a litellm -m x", "litellm -m x"),
            ("/usr/bin/time -v -o /t litellm", "litellm"),
        ] {
            assert_eq!(unwrapped(line).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_replaces_the_environment_is_no_wrapper() {
        for line in [
            "sudo -u app litellm",
            "sudo -E -u app -- litellm",
            "doas -u app -- litellm",
            "runuser -l app -- litellm",
            "setpriv --reuid 1000 --reset-env litellm",
            "env -i litellm",
            "env - A=b litellm",
            "env --ignore-environment A=b -- litellm",
            "env -uCONFIG_FILE_PATH litellm",
            "env A=b --unset=CONFIG_FILE_PATH litellm",
            "env -S litellm",
        ] {
            assert_eq!(unwrapped(line), None, "{line}");
            let words: Vec<Option<String>> = line.split(' ').map(|word| Some(word.to_owned())).collect();
            assert_eq!(after_double_dash(&words), None, "{line}");
        }
        assert_eq!(
            unwrapped("env -u HOME -C /app A=- litellm -i").as_deref(),
            Some("litellm -i")
        );
    }

    #[test]
    fn env_without_a_variable_that_not_each_plan_needs_is_a_wrapper() {
        for line in [
            "env -u NO_PROXY litellm",
            "env A=b --unset=no_proxy litellm",
            "env -uPYTHONPATH -- litellm",
        ] {
            assert_eq!(unwrapped(line).as_deref(), Some("litellm"), "{line}");
        }
    }

    #[test]
    fn what_a_wrapper_runs_stands_behind_its_own_words() {
        for line in [
            "uv run litellm --port 1",
            "uv run --frozen --no-sync litellm --port 1",
            "uv --directory /app run --with litellm --python=3.12 -- litellm --port 1",
            "uvx --from litellm[proxy] litellm --port 1",
            "poetry run litellm --port 1",
            "conda run --no-capture-output -n env litellm --port 1",
            "/vault/vault-env litellm --port 1",
            "doppler run -- litellm --port 1",
            "doppler --token x run --project p -- litellm --port 1",
            "/op/bin/op run --env-file .env -- litellm --port 1",
            "tini -g -e 143 -- litellm --port 1",
            "gosu app litellm --port 1",
            "nice -n 5 litellm --port 1",
            "opentelemetry-instrument --traces_exporter otlp --metrics_exporter=none litellm --port 1",
            "newrelic-admin run-program litellm --port 1",
            "env -u A B=c litellm --port 1",
            "setpriv --reuid 1000 --clear-groups litellm --port 1",
            "numactl --interleave=all litellm --port 1",
            "timeout -k 5 86400 litellm --port 1",
        ] {
            assert_eq!(unwrapped(line).as_deref(), Some("litellm --port 1"), "{line}");
        }
        assert_eq!(unwrapped("uv pip install litellm").as_deref(), Some(""));
        assert_eq!(unwrapped("tini --").as_deref(), Some(""));
        assert_eq!(unwrapped("/start litellm"), None);
    }
}
