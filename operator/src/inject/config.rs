//! Where LiteLLM's own configuration file is: `CONFIG_FILE_PATH`, else `--config`, else nowhere but its
//! database.

use k8s_openapi::api::core::v1::Container;

use super::command_line::{command_words, flag};
use super::environment::{Environment, VariableValue};
use super::error::InjectionError;
use super::path::{is_yaml, normalize};

pub(super) const CONFIG_FILE_PATH: &str = "CONFIG_FILE_PATH";

/// Path of the configuration file as LiteLLM would find it without injection.
pub(super) fn original_config_path(
    container: &Container,
    environment: &Environment,
) -> Result<Option<String>, InjectionError> {
    let hidden = |source| InjectionError::HiddenConfigPath {
        container: container.name.clone(),
        source_of_path: source,
    };
    let path = match environment.get(CONFIG_FILE_PATH) {
        VariableValue::Hidden => return Err(hidden("the variable CONFIG_FILE_PATH")),
        // LiteLLM takes an empty one for none.
        VariableValue::Literal(path) if !path.is_empty() => path,
        _ => match flag(&command_words(container, environment), &["--config", "-c"]) {
            None => return Ok(None),
            Some(None) => return Err(hidden("the argument --config")),
            Some(Some(path)) => path,
        },
    };
    let absolute = match container.working_dir.as_deref() {
        Some(folder) if !path.starts_with('/') => format!("{folder}/{path}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config_path(yaml: &str) -> Result<Option<String>, &'static str> {
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
        original_config_path(&container, &Environment::from_container(&container))
            .map_err(|error| error.reason())
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
    fn a_relative_path_needs_a_working_directory_in_the_pod() {
        assert_eq!(
            config_path("args: [-c, conf/a.yaml], workingDir: /app/"),
            Ok(Some("/app/conf/a.yaml".into()))
        );
        assert_eq!(config_path("args: [-c, a.yaml]"), Err("RelativeConfigPath"));
        assert_eq!(
            config_path("args: [-c, /app/../a.yaml]"),
            Err("RelativeConfigPath")
        );
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
}
