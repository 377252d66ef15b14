//! Where LiteLLM's own configuration is, and how LiteLLM is told of the wrapper. LiteLLM reads
//! `CONFIG_FILE_PATH`, else `--config`, which its command line passes on in `WORKER_CONFIG`, else nothing but
//! its database; and a bucket before any file. It must never start without the configuration that it had: one
//! with a `master_key` that disappears is an open gateway. So what cannot be seen is an error.

use k8s_openapi::api::core::v1::Container;

use super::command_line::{flag, may_change_folder};
use super::environment::{Environment, VariableValue};
use super::error::InjectionError;
use super::image::Image;
use super::litellm_options::{
    CONFIG_FILE_PATH, configuration_option, may_hide_options, states_configuration,
};
use super::path::{is_yaml, normalize};
use super::role::{ArgumentsPlace, Invocation, Role, Start};
use super::server_variables;

const WORKER_CONFIG: &str = "WORKER_CONFIG";
const BUCKET: &str = "LITELLM_CONFIG_BUCKET_NAME";

/// How LiteLLM is told of the wrapper.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WrapperOption {
    /// By `CONFIG_FILE_PATH`.
    Variable,
    /// By `--config`: options that are configuration are heeded only without the variable.
    Argument,
}

/// Path of the configuration file as LiteLLM would find it without injection.
pub(super) fn original_config_path(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> Result<Option<String>, InjectionError> {
    let hidden = |source: &str| InjectionError::HiddenConfigPath {
        container: container.name.clone(),
        source_of_path: source.to_owned(),
    };
    if environment.may_come_from_env_from(BUCKET) {
        return Err(hidden("envFrom"));
    }
    let path = match environment.get_or_hidden(CONFIG_FILE_PATH) {
        VariableValue::Hidden => return Err(hidden("the variable CONFIG_FILE_PATH")),
        // LiteLLM takes an empty one for none.
        VariableValue::Literal(path) if !path.is_empty() => Some(path),
        _ => match config_option(invocation) {
            Some(None) => return Err(hidden("the argument --config")),
            Some(Some(path)) => Some(path),
            None => {
                worker_config(environment, invocation).ok_or_else(|| hidden("the variable WORKER_CONFIG"))?
            }
        },
    };
    let Some(path) = path else {
        if takes_config_option(invocation) && may_hide_options(&invocation.words) {
            return Err(hidden("a variable in the start command"));
        }
        if let Some(source) = hidden_environment(environment, invocation) {
            return Err(hidden(&source));
        }
        return match Image::of(container).is_official() {
            true => Ok(None),
            false => Err(hidden("the image")),
        };
    };
    let absolute = match container.working_dir.as_deref() {
        Some(folder) if !path.starts_with('/') && !may_change_folder(container) => format!("{folder}/{path}"),
        _ => path,
    };
    let path = normalize(&absolute).ok_or_else(|| InjectionError::RelativeConfigPath {
        container: container.name.clone(),
    })?;
    // LiteLLM passes over any other file in silence, and would start without a configuration.
    if !is_yaml(&path) {
        return Err(InjectionError::ConfigNotYaml { path });
    }
    Ok(Some(path))
}

/// What may bring variables that the pod does not show, and with them a configuration that comes before the one that the
/// pod names.
pub(super) fn may_replace_configuration(
    environment: &Environment,
    invocation: &Invocation,
) -> Option<String> {
    // Servers leave variables that are set as they are.
    let is_server = matches!(invocation.role, Role::LiteLlm(Start::Server));
    match is_server && environment.is_set(CONFIG_FILE_PATH) {
        true => invocation.environment_source.clone(),
        false => hidden_environment(environment, invocation),
    }
}

/// What may bring variables that the pod does not show, but for `envFrom`.
pub(super) fn hidden_environment(environment: &Environment, invocation: &Invocation) -> Option<String> {
    if reads_environment_file(invocation) {
        return Some("the option --env-file".to_owned());
    }
    server_variables::may_read_file(environment, invocation)
        .map(|variable| format!("the file of the variable {variable}"))
        .or_else(|| invocation.environment_source.clone())
}

/// Whether LiteLLM reads its configuration from a bucket, and ignores every file.
pub(super) fn is_in_bucket(environment: &Environment) -> bool {
    environment.is_set(BUCKET)
}

/// How LiteLLM is told of the wrapper. `own` are the environment's entries without injection.
pub(super) fn wrapper_option(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> Result<WrapperOption, InjectionError> {
    let option = takes_config_option(invocation)
        .then(|| configuration_option(&invocation.words))
        .flatten();
    // Options that are not seen may be configuration too.
    let is_hidden = takes_config_option(invocation) && may_hide_options(&invocation.words);
    if option.is_none() && is_hidden && invocation.arguments != ArgumentsPlace::Unreachable {
        return Ok(match environment.is_set(CONFIG_FILE_PATH) {
            true => WrapperOption::Variable,
            false => WrapperOption::Argument,
        });
    }
    let is_by_variable = takes_config_option(invocation)
        && invocation.arguments != ArgumentsPlace::Unreachable
        && !environment.is_set(CONFIG_FILE_PATH)
        // One that `envFrom` brings would come before the argument.
        && !environment.may_come_from_env_from(CONFIG_FILE_PATH)
        && states_configuration(environment);
    match option {
        // With the variable in the pod LiteLLM ignores the options already.
        Some(_) if environment.is_set(CONFIG_FILE_PATH) => Ok(WrapperOption::Variable),
        Some(option) if invocation.arguments == ArgumentsPlace::Unreachable => {
            Err(InjectionError::ConfigInArguments {
                container: container.name.clone(),
                option: option.to_owned(),
            })
        }
        Some(_) => Ok(WrapperOption::Argument),
        None if is_by_variable => Ok(WrapperOption::Argument),
        None => Ok(WrapperOption::Variable),
    }
}

/// Whether LiteLLM can be told of the wrapper by `--config` alone, which nothing comes before that the pod shows or hides.
pub(super) fn can_be_named_by_argument(environment: &Environment, invocation: &Invocation) -> bool {
    takes_config_option(invocation)
        && invocation.arguments != ArgumentsPlace::Unreachable
        && environment.get_or_hidden(CONFIG_FILE_PATH) == VariableValue::Absent
        && hidden_environment(environment, invocation).is_none()
}

/// The value of `--config`; `Some(None)` if it is hidden. Servers have an option of that name for a
/// configuration of their own.
fn config_option(invocation: &Invocation) -> Option<Option<String>> {
    takes_config_option(invocation)
        .then(|| flag(&invocation.words, &["--config", "-c"]))
        .flatten()
}

fn takes_config_option(invocation: &Invocation) -> bool {
    match invocation.role {
        Role::LiteLlm(start) | Role::Named(start) => matches!(start, Start::CommandLine | Start::Launcher),
        Role::Entrypoint | Role::Program => true,
        Role::Shell | Role::Other => false,
    }
}

/// Whether the server that LiteLLM runs in reads variables from a file, as uvicorn and granian can.
fn reads_environment_file(invocation: &Invocation) -> bool {
    let mut words = invocation.words.iter().flatten();
    words.any(|word| word.starts_with("--env-file"))
}

/// The path in `WORKER_CONFIG`, which LiteLLM's command line sets itself whatever it was. `None` if it cannot
/// be read, `Some(None)` if there is none.
fn worker_config(environment: &Environment, invocation: &Invocation) -> Option<Option<String>> {
    let is_overwritten = matches!(
        invocation.role,
        Role::LiteLlm(Start::CommandLine) | Role::Named(Start::CommandLine)
    );
    match environment.get_or_hidden(WORKER_CONFIG) {
        _ if is_overwritten => Some(None),
        VariableValue::Absent => Some(None),
        VariableValue::Literal(text) if text.is_empty() => Some(None),
        // Else it is JSON that holds the options of a command line.
        VariableValue::Literal(path) if is_yaml(&path) => Some(Some(path)),
        VariableValue::Literal(_) | VariableValue::Hidden => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    fn config_path(yaml: &str) -> Result<Option<String>, &'static str> {
        let (container, environment, invocation) = parts(yaml);
        original_config_path(&container, &environment, &invocation).map_err(|error| error.reason())
    }

    fn parts(yaml: &str) -> (Container, Environment, Invocation) {
        let image = if yaml.contains("image:") {
            ""
        } else {
            "image: berriai/litellm, "
        };
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {image}{yaml}}}")).unwrap();
        let environment = Environment::from_container(&container);
        let invocation = invocation(&container, &environment);
        (container, environment, invocation)
    }

    #[test]
    fn the_variable_beats_the_argument_and_the_last_argument_wins() {
        let both = "args: [--config, /a.yaml], env: [{name: CONFIG_FILE_PATH, value: /b.yaml}]";
        assert_eq!(config_path(both), Ok(Some("/b.yaml".into())));
        let empty = "args: [--config, /a.yaml], env: [{name: CONFIG_FILE_PATH, value: ''}]";
        assert_eq!(config_path(empty), Ok(Some("/a.yaml".into())));
        assert_eq!(
            config_path("args: [-c, /a.yaml, --config=/b.yml]"),
            Ok(Some("/b.yml".into()))
        );
        assert_eq!(
            config_path("args: [--config=/b.yml, -c, /a.yaml]"),
            Ok(Some("/a.yaml".into()))
        );
        assert_eq!(config_path("args: [--port, '4000']"), Ok(None));
    }

    #[test]
    fn the_path_may_stand_in_the_word_of_the_short_option() {
        for line in [
            "args: [-c/a.yaml, --port, '4000']",
            "args: [--config, /b.yaml, -c/a.yaml]",
            "command: [litellm, -c/a.yaml]",
            "command: [sh, -c, 'exec litellm -c/a.yaml --port 4000']",
            "command: [sh, -c, 'exec litellm -c$CFG'], env: [{name: CFG, value: /a.yaml}]",
        ] {
            assert_eq!(config_path(line), Ok(Some("/a.yaml".into())), "{line}");
        }
        assert_eq!(config_path("args: [-c$(X)]"), Err("HiddenConfigPath"));
        // LiteLLM takes the equals sign for part of the path.
        assert_eq!(config_path("args: [-c=/a.yaml]"), Err("RelativeConfigPath"));
    }

    #[test]
    fn a_relative_path_needs_a_working_directory_in_the_pod() {
        assert_eq!(
            config_path("args: [-c, conf/a.yaml], workingDir: /app/"),
            Ok(Some("/app/conf/a.yaml".into()))
        );
        assert_eq!(config_path("args: [-c, a.yaml]"), Err("RelativeConfigPath"));
        for elsewhere in [
            "command: [sh, -c, 'cd /srv && litellm -c a.yaml']",
            "command: [sh, -c, 'exec uv --directory=/srv run litellm -c a.yaml']",
            "command: [uv, --directory, /srv, run, litellm, -c, a.yaml]",
            "command: [env, --chdir=/srv, litellm, -c, a.yaml]",
        ] {
            let yaml = format!("{elsewhere}, workingDir: /app");
            assert_eq!(config_path(&yaml), Err("RelativeConfigPath"), "{elsewhere}");
        }
        assert_eq!(
            config_path("args: [-c, /app/../a.yaml]"),
            Err("RelativeConfigPath")
        );
    }

    #[test]
    fn a_path_in_a_variable_of_the_pod_is_known_where_a_script_only_expands_it() {
        let path = |script: &str| {
            let env = "env: [{name: CFG, value: /a.yaml}, {name: DIR, value: /b}, {name: TWO, value: /a b}]";
            config_path(&format!("command: [sh, -c, '{script}'], {env}"))
        };
        for (script, expected) in [
            ("litellm --config $CFG", "/a.yaml"),
            ("exec litellm --config=${CFG} --port 4000", "/a.yaml"),
            ("umask 022; litellm --config \"$DIR/c.yaml\"", "/b/c.yaml"),
            ("time litellm --config \"$CFG\"", "/a.yaml"),
        ] {
            assert_eq!(path(script), Ok(Some(expected.into())), "{script}");
        }
        for script in [
            "CFG=/c.yaml; litellm --config $CFG",
            "read CFG < /f; litellm --config $CFG",
            "litellm --config ${CFG:-/c.yaml}",
            ". /e; litellm --config $CFG",
            "eval \"$SETUP\"; litellm --config $CFG",
            "litellm --config $TWO",
            "litellm --config $CFGS",
        ] {
            assert_eq!(path(script), Err("HiddenConfigPath"), "{script}");
        }
        let brought = "command: [doppler, run, --, sh, -c, 'litellm --config $CFG'], env: [{name: CFG, value: /a.yaml}]";
        assert_eq!(config_path(brought), Err("HiddenConfigPath"));
        let hidden = "command: [sh, -c, 'litellm --config $CFG'], envFrom: [{secretRef: {name: e}}]";
        assert_eq!(config_path(hidden), Err("HiddenConfigPath"));
    }

    #[test]
    fn a_path_that_is_hidden_or_that_litellm_ignores_is_an_error() {
        assert_eq!(config_path("args: [-c, $(X)]"), Err("HiddenConfigPath"));
        assert_eq!(
            config_path("env: [{name: CONFIG_FILE_PATH, valueFrom: {configMapKeyRef: {name: a, key: b}}}]"),
            Err("HiddenConfigPath")
        );
        assert_eq!(config_path("args: [-c, /a.json]"), Err("ConfigNotYaml"));
    }

    #[test]
    fn what_the_pod_does_not_show_is_an_error_and_not_taken_for_none() {
        for hidden in [
            "envFrom: [{configMapRef: {name: e}}]",
            // The variable would beat the argument.
            "args: [-c, /a.yaml], envFrom: [{secretRef: {name: e}}]",
            // A bucket would beat both.
            "env: [{name: CONFIG_FILE_PATH, value: /a.yaml}], envFrom: [{secretRef: {name: e}}]",
            // The arguments or the environment of an image that is not known.
            "image: own/litellm",
            "image: own/litellm, args: [--port, '4000']",
            "command: [uvicorn, 'litellm.proxy.proxy_server:app'], env: [{name: WORKER_CONFIG, value: '{}'}]",
        ] {
            assert_eq!(config_path(hidden), Err("HiddenConfigPath"), "{hidden}");
        }
        assert_eq!(
            config_path("envFrom: [{prefix: DB_, secretRef: {name: e}}]"),
            Ok(None)
        );
        assert_eq!(
            config_path("args: [--port, '4000']"),
            Ok(None),
            "the official image names none"
        );
        assert_eq!(
            config_path("image: own, args: [-c, /a.yaml]"),
            Ok(Some("/a.yaml".into()))
        );
    }

    #[test]
    fn a_server_reads_the_path_from_worker_config_and_the_command_line_does_not() {
        let variable = "env: [{name: WORKER_CONFIG, value: /a.yaml}]";
        let uvicorn = format!("command: [uvicorn, 'litellm.proxy.proxy_server:app'], {variable}");
        assert_eq!(config_path(&uvicorn), Ok(Some("/a.yaml".into())));
        assert_eq!(config_path(&format!("command: [litellm], {variable}")), Ok(None));
    }

    #[test]
    fn the_configuration_of_a_server_or_wrapper_is_not_litellms() {
        let gunicorn = "command: [gunicorn, -c, /gunicorn.yaml, 'litellm.proxy.proxy_server:app']";
        assert_eq!(config_path(gunicorn), Ok(None));
        let tracer = "command: [opentelemetry-instrument, --config, prd.yaml, litellm]";
        assert_eq!(config_path(tracer), Ok(None));
    }

    #[test]
    fn what_a_wrapper_brings_into_the_environment_may_name_the_configuration() {
        for wrapper in [
            "doppler, run, --config, prd.yaml, --",
            "uv, run, --env-file, /secrets/.env",
            "op, run, --env-file=/secrets/.env, --",
            "dotenv, -f, /secrets/.env, run, --",
            "chamber, exec, x, --",
        ] {
            let alone = format!("command: [{wrapper}, litellm]");
            assert_eq!(config_path(&alone), Err("HiddenConfigPath"), "{wrapper}");
            let shown = format!("command: [{wrapper}, litellm, --config, /a.yaml]");
            assert_eq!(config_path(&shown), Ok(Some("/a.yaml".into())), "{wrapper}");
        }
    }

    #[test]
    fn a_mounted_file_that_litellm_loads_may_name_the_configuration() {
        let mount = "volumeMounts: [{name: e, mountPath: /app/.env, subPath: .env}]";
        assert_eq!(
            config_path(&format!("args: [--port, '4000'], {mount}")),
            Err("HiddenConfigPath")
        );
        assert_eq!(config_path(mount), Err("HiddenConfigPath"));
        let mode = "env: [{name: LITELLM_MODE, value: PRODUCTION}]";
        assert_eq!(config_path(&format!("{mount}, {mode}")), Ok(None));
        let script = "command: [sh, -c, 'litellm --config $CFG'], env: [{name: CFG, value: /a.yaml}]";
        assert_eq!(
            config_path(&format!("{script}, {mount}")),
            Ok(Some("/a.yaml".into()))
        );
        let (_, environment, invocation) = parts(&format!("args: [-c, /a.yaml], {mount}"));
        let source = may_replace_configuration(&environment, &invocation);
        assert_eq!(source.as_deref(), Some("the file /app/.env"));
    }

    #[test]
    fn branches_that_name_different_configurations_name_none() {
        let branches = |second: &str| {
            config_path(&format!(
                "command: [sh, -c, 'litellm -c /a.yaml || litellm {second}']"
            ))
        };
        assert_eq!(branches("-c /a.yaml --port 1"), Ok(Some("/a.yaml".into())));
        assert_eq!(branches("-c /b.yaml"), Err("HiddenConfigPath"));
        assert_eq!(branches("--port 1"), Err("HiddenConfigPath"));
    }

    #[test]
    fn what_brings_variables_may_replace_the_configuration_that_the_pod_names() {
        let source = |yaml: &str| {
            let (_, environment, invocation) = parts(yaml);
            may_replace_configuration(&environment, &invocation)
        };
        for yaml in [
            "command: [doppler, run, --, litellm, -c, /a.yaml]",
            "command: [sh, -c, '. /e && litellm -c /a.yaml']",
            "command: [uv, run, --env-file, .env, litellm, -c, /a.yaml]",
            "command: [litellm], env: [{name: CONFIG_FILE_PATH, value: /a.yaml}], args: [--env-file]",
        ] {
            assert!(source(yaml).is_some(), "{yaml}");
        }
        for yaml in [
            "command: [litellm, -c, /a.yaml]",
            "command: [uvicorn, 'litellm.proxy.proxy_server:app', --env-file, .env], env: [{name: \
             CONFIG_FILE_PATH, value: /a.yaml}]",
        ] {
            assert_eq!(source(yaml), None, "{yaml}");
        }
    }

    #[test]
    fn options_that_are_configuration_survive() {
        let option = |yaml: &str| {
            let (container, environment, invocation) = parts(yaml);
            wrapper_option(&container, &environment, &invocation).map_err(|error| error.reason())
        };
        assert_eq!(option("args: [--port, '4000']"), Ok(WrapperOption::Variable));
        assert_eq!(option("args: [--model, gpt]"), Ok(WrapperOption::Argument));
        assert_eq!(option("args: [-mgpt]"), Ok(WrapperOption::Argument));
        assert_eq!(
            option("args: [--model, gpt], env: [{name: CONFIG_FILE_PATH, value: /a.yaml}]"),
            Ok(WrapperOption::Variable),
            "LiteLLM ignores them already"
        );
        let debug = "env: [{name: DETAILED_DEBUG, value: 'True'}";
        assert_eq!(option(&format!("{debug}]")), Ok(WrapperOption::Argument));
        for without_effect in [
            format!("{debug}, {{name: CONFIG_FILE_PATH, value: /a.yaml}}]"),
            format!("{debug}], envFrom: [{{configMapRef: {{name: e}}}}]"),
            format!("{debug}], command: [uvicorn, 'litellm.proxy.proxy_server:app']"),
            "env: [{name: DEBUG, value: ''}]".to_owned(),
        ] {
            assert_eq!(
                option(&without_effect),
                Ok(WrapperOption::Variable),
                "{without_effect}"
            );
        }
        let several = "command: [sh, -c, 'litellm --model a || litellm']";
        assert_eq!(option(several), Err("ConfigInArguments"));
    }
}
