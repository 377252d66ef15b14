//! The role of a container: what it runs, by its command and arguments. Image and environment decide only
//! where those leave it open: LiteLLM has one image for all its components, and a mirror may call it
//! anything.

use k8s_openapi::api::core::v1::Container;

use super::environment::{Environment, VariableValue};

/// What a container runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// LiteLLM's proxy, gateway or backend, which appended arguments reach.
    LiteLlm,
    /// A word that makes the entrypoint of LiteLLM's image start one of those, but that other images may take
    /// too.
    Named,
    /// The image's entrypoint, with options or nothing: nothing in the words says what it is.
    Entrypoint,
    /// A shell script: appended arguments do not reach LiteLLM.
    Shell {
        /// The command `litellm`, or another that starts it, is a word of it.
        names_litellm: bool,
    },
    /// A program that is not known, and may start LiteLLM.
    Program,
    /// Nothing that serves LiteLLM's API.
    Other,
}

/// The uvicorn applications of LiteLLM.
const APPLICATIONS: [&str; 3] = [
    "litellm.proxy.proxy_server:app",
    "gateway.main:app",
    "backend.main:app",
];
/// Python modules that start LiteLLM with the arguments they get.
const MODULES: [&str; 2] = ["gateway.launch", "litellm.proxy.proxy_cli"];
/// The script behind the command `litellm`.
const COMMAND_LINE: &str = "litellm/proxy/proxy_cli.py";

/// Words of a container's command and arguments, hidden ones `None`.
type Words<'a> = &'a [Option<String>];

pub(super) fn role(container: &Container, environment: &Environment) -> Role {
    // Collector and worker are started like a backend; this variable is the only difference.
    if let VariableValue::Literal(job) = environment.get("LITELLM_JOB_ROLE")
        && matches!(job.as_str(), "collector" | "worker")
    {
        return Role::Other;
    }
    let command = environment.expand_all(container.command.as_ref());
    let arguments = environment.expand_all(container.args.as_ref());
    if command.is_empty() {
        return entrypoint(&arguments, environment);
    }
    program(&[command, arguments].concat(), environment)
}

/// The entrypoint of LiteLLM's image: the first word is a component of LiteLLM, an option for its proxy, or a
/// program.
fn entrypoint(words: Words, environment: &Environment) -> Role {
    let Some(first) = words.first() else {
        return component(environment);
    };
    let Some(first) = first else {
        return Role::Program;
    };
    match first.as_str() {
        // LiteLLM takes options only; the `proxy` of others has subcommands (`proxy sidecar` is Istio's).
        "proxy" | "gateway" | "backend" => match words.get(1) {
            Some(Some(second)) if !second.starts_with('-') => Role::Other,
            _ => Role::Named,
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
        _ => program(words, environment),
    }
}

/// Where the words leave it open, the entrypoint of LiteLLM's image reads the component from a variable.
fn component(environment: &Environment) -> Role {
    match environment.get("LITELLM_COMPONENT") {
        VariableValue::Literal(name) if matches!(name.as_str(), "proxy" | "gateway" | "backend") => {
            Role::LiteLlm
        }
        VariableValue::Literal(name) if !name.is_empty() => Role::Other,
        _ => Role::Entrypoint,
    }
}

fn program(words: Words, environment: &Environment) -> Role {
    let mut rest = words;
    while let Some((first, after)) = rest.split_first() {
        let Some(first) = first else {
            return Role::Program;
        };
        rest = match first.rsplit('/').next().unwrap_or_default() {
            // These run the words that follow their own options.
            "tini"
            | "dumb-init"
            | "catatonit"
            | "ddtrace-run"
            | "opentelemetry-instrument"
            | "component_entrypoint.sh" => after_options(after),
            "env" => after_assignments(after),
            "newrelic-admin" => after.split_first().map_or(after, |(_, after)| after),
            "docker-entrypoint.sh" => return entrypoint(after, environment),
            "prod_entrypoint.sh" | "litellm" => return Role::LiteLlm,
            "uvicorn" => return uvicorn(after),
            name if name.starts_with("python") => return python(after),
            "sh" | "bash" | "ash" | "dash" | "busybox" => return shell(after),
            _ => return Role::Program,
        };
    }
    Role::Program
}

fn after_options(words: Words) -> Words {
    let options = words
        .iter()
        .take_while(|word| word.as_ref().is_some_and(|word| word.starts_with('-')))
        .count();
    &words[options..]
}

fn after_assignments(words: Words) -> Words {
    let assignments = |word: &Option<String>| {
        word.as_ref()
            .is_some_and(|word| word.contains('=') || word.starts_with('-'))
    };
    &words[words.iter().take_while(|word| assignments(word)).count()..]
}

fn python(words: Words) -> Role {
    let mut rest = words
        .iter()
        .flatten()
        .skip_while(|word| word.starts_with('-') && *word != "-m" && *word != "-c");
    match rest.next().map(String::as_str) {
        Some("-m") => match rest.next().map(String::as_str) {
            Some("uvicorn") => uvicorn(words),
            Some(module) if MODULES.contains(&module) => Role::LiteLlm,
            _ => Role::Other,
        },
        Some(script) if script.ends_with("/bin/litellm") || script.ends_with(COMMAND_LINE) => Role::LiteLlm,
        _ => Role::Other,
    }
}

fn uvicorn(words: Words) -> Role {
    let serves_litellm = words
        .iter()
        .flatten()
        .any(|word| APPLICATIONS.contains(&word.as_str()));
    if serves_litellm {
        Role::LiteLlm
    } else {
        Role::Other
    }
}

fn shell(words: Words) -> Role {
    let is_between = |letter: char| letter.is_whitespace() || ";&|()\"'`".contains(letter);
    let mut parts = words.iter().flatten().flat_map(|word| word.split(is_between));
    let starts_litellm = |part: &str| {
        part.rsplit('/').next() == Some("litellm")
            || part.ends_with(COMMAND_LINE)
            || APPLICATIONS.contains(&part)
            || MODULES.contains(&part)
    };
    Role::Shell {
        names_litellm: parts.any(starts_litellm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role_of(yaml: &str) -> Role {
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
        role(&container, &Environment::from_container(&container))
    }

    #[test]
    fn finds_litellm_however_it_is_started() {
        for yaml in [
            "command: [litellm, --config, /c.yaml]",
            "command: [/usr/local/bin/litellm], args: [--port, '1']",
            "command: [docker/prod_entrypoint.sh]",
            "command: [ddtrace-run, litellm]",
            "command: [tini, -g, --, litellm]",
            "command: [newrelic-admin, run-program, litellm]",
            "command: [env, A=b, litellm]",
            "command: [python3.13, -u, -m, gateway.launch]",
            "command: [python, /app/litellm/proxy/proxy_cli.py]",
            "command: [uvicorn, 'backend.main:app']",
            "command: [component_entrypoint.sh, uvicorn, 'backend.main:app']",
            "args: [python3, -m, uvicorn, 'litellm.proxy.proxy_server:app']",
            "args: [--workers, '2'], env: [{name: LITELLM_COMPONENT, value: gateway}]",
        ] {
            assert_eq!(role_of(yaml), Role::LiteLlm, "{yaml}");
        }
        for yaml in [
            "args: [proxy]",
            "args: [gateway, --host, 0.0.0.0]",
            "command: [/app/docker-entrypoint.sh, backend]",
        ] {
            assert_eq!(role_of(yaml), Role::Named, "{yaml}");
        }
        for yaml in [
            "image: i",
            "args: [--config, /c.yaml]",
            "command: [docker-entrypoint.sh], args: [--port, '1']",
        ] {
            assert_eq!(role_of(yaml), Role::Entrypoint, "{yaml}");
        }
    }

    #[test]
    fn never_takes_other_components_for_the_proxy() {
        for yaml in [
            "args: [ui]",
            "args: [migrations]",
            "args: [metrics, --port, '4001']",
            "args: [collector]",
            "args: [--admin-agent]",
            "args: [proxy, sidecar, --domain, d]",
            "command: [python, -m, litellm.proxy.collector]",
            "command: [python, litellm/proxy/prisma_migration.py]",
            "command: [python, -c, 'import litellm']",
            "command: [uvicorn, 'other:app']",
            "args: [backend], env: [{name: LITELLM_JOB_ROLE, value: worker}]",
            "env: [{name: LITELLM_COMPONENT, value: ui}]",
        ] {
            assert_eq!(role_of(yaml), Role::Other, "{yaml}");
        }
    }

    #[test]
    fn distinguishes_shells_and_unknown_programs() {
        assert_eq!(
            role_of("command: [/bin/sh, -c, 'exec litellm']"),
            Role::Shell { names_litellm: true }
        );
        for script in [
            "curl http://litellm:4000/health",
            "python litellm/proxy/prisma_migration.py",
        ] {
            assert_eq!(
                role_of(&format!("command: [sh, -c, '{script}']")),
                Role::Shell { names_litellm: false }
            );
        }
        for script in [
            "cd /app && /usr/bin/litellm --port 1",
            "exec python -m gateway.launch",
        ] {
            assert_eq!(
                role_of(&format!("command: [sh, -c, '{script}']")),
                Role::Shell { names_litellm: true }
            );
        }
        assert_eq!(
            role_of("args: [bash, -c, 'sleep 1']"),
            Role::Shell { names_litellm: false }
        );
        assert_eq!(role_of("command: [/start]"), Role::Program);
        assert_eq!(role_of("command: [tini, --]"), Role::Program);
        assert_eq!(role_of("args: [$(ROLE)]"), Role::Program);
    }
}
