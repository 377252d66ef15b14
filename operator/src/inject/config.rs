//! Where LiteLLM's own configuration file is: `CONFIG_FILE_PATH`, else `--config`, else nowhere but its database.

use k8s_openapi::api::core::v1::Container;

use super::command_line::{flag, words};
use super::environment::{Environment, Value};
use super::error::Refusal;
use super::path::{is_yaml, normalize};

pub(super) const CONFIG_FILE_PATH: &str = "CONFIG_FILE_PATH";

/// Path of the configuration file as LiteLLM would find it without injection.
pub(super) fn original(container: &Container, environment: &Environment) -> Result<Option<String>, Refusal> {
    let hidden = |source| Refusal::HiddenConfigPath {
        container: container.name.clone(),
        source_of_path: source,
    };
    let path = match environment.get(CONFIG_FILE_PATH) {
        Value::Hidden => return Err(hidden("the variable CONFIG_FILE_PATH")),
        // LiteLLM takes an empty one for none.
        Value::Literal(path) if !path.is_empty() => path,
        _ => match flag(&words(container, environment), &["--config", "-c"]) {
            None => return Ok(None),
            Some(None) => return Err(hidden("the argument --config")),
            Some(Some(path)) => path,
        },
    };
    let absolute = match container.working_dir.as_deref() {
        Some(folder) if !path.starts_with('/') => format!("{folder}/{path}"),
        _ => path,
    };
    let path = normalize(&absolute).ok_or_else(|| Refusal::RelativeConfigPath {
        container: container.name.clone(),
    })?;
    // LiteLLM passes over any other file in silence, and would start without a configuration.
    if !is_yaml(&path) {
        return Err(Refusal::ConfigNotYaml { path });
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original_of(yaml: &str) -> Result<Option<String>, &'static str> {
        let container: Container = serde_saphyr::from_str(&format!("{{name: c, {yaml}}}")).unwrap();
        original(&container, &Environment::of(&container)).map_err(|refusal| refusal.reason())
    }

    #[test]
    fn the_variable_beats_the_argument_and_the_last_argument_wins() {
        let both = "args: [--config, /a.yaml], env: [{name: CONFIG_FILE_PATH, value: /b.yaml}]";
        assert_eq!(original_of(both), Ok(Some("/b.yaml".into())));
        let empty = "args: [--config, /a.yaml], env: [{name: CONFIG_FILE_PATH, value: ''}]";
        assert_eq!(original_of(empty), Ok(Some("/a.yaml".into())));
        assert_eq!(
            original_of("args: [-c, /a.yaml, --config=/b.yml]"),
            Ok(Some("/b.yml".into()))
        );
        assert_eq!(
            original_of("args: [--config=/b.yml, -c, /a.yaml]"),
            Ok(Some("/a.yaml".into()))
        );
        assert_eq!(original_of("args: [--port, '4000']"), Ok(None));
    }

    #[test]
    fn a_relative_path_needs_a_known_working_directory() {
        assert_eq!(
            original_of("args: [-c, conf/a.yaml], workingDir: /app/"),
            Ok(Some("/app/conf/a.yaml".into()))
        );
        assert_eq!(original_of("args: [-c, a.yaml]"), Err("RelativeConfigPath"));
        assert_eq!(
            original_of("args: [-c, /app/../a.yaml]"),
            Err("RelativeConfigPath")
        );
    }

    #[test]
    fn what_cannot_be_seen_or_is_passed_over_is_refused() {
        assert_eq!(original_of("args: [-c, $(X)]"), Err("HiddenConfigPath"));
        assert_eq!(
            original_of("env: [{name: CONFIG_FILE_PATH, valueFrom: {configMapKeyRef: {name: a, key: b}}}]"),
            Err("HiddenConfigPath")
        );
        assert_eq!(original_of("args: [-c, /a.json]"), Err("ConfigNotYaml"));
    }
}
