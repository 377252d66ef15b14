//! `import litellm`: from the `mcp_servers` of a LiteLLM configuration to `McpServerAuth` resources and the
//! Secrets that they need. No value of a secret is carried over: the Secrets are to be filled in.

mod server;

use std::collections::BTreeSet;

use mcp_auth_sidecar::control::litellm_config::config;
use mcp_auth_sidecar::control::litellm_config::error::{ConfigError, ConfigFileError};
use mcp_auth_sidecar::control::litellm_config::node::Budget;
use serde_json::{Value, json};

use crate::args::ImportLiteLlmArgs;
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::output;
use server::{Entry, Imported};

/// What came of a configuration.
#[derive(Debug, Default)]
struct Import {
    /// YAML documents, ready for `kubectl apply`.
    documents: Vec<String>,
    /// What could not be carried over, each with the entry that it is about.
    warnings: Vec<String>,
}

pub fn run(args: &ImportLiteLlmArgs) -> Result<ExitStatus, CliError> {
    let mut budget = Budget::default();
    let import = config::read(&args.file, &mut budget)
        .and_then(|config| {
            import(&config, args.namespace.as_deref(), &mut budget).map_err(|error| ConfigFileError {
                path: args.file.clone(),
                error,
            })
        })
        .map_err(|error| CliError::LiteLlmConfiguration {
            problem: problem(&error.error),
            path: error.path,
        })?;
    for warning in &import.warnings {
        output::print_error(&format!("warning: {}", output::clean(warning)));
    }
    if import.documents.is_empty() {
        output::print_error(
            "no entry of mcp_servers authenticates itself by OAuth2 or a bearer token: there is nothing to \
             import",
        );
    } else {
        output::print(&import.documents.join("---\n"))?;
    }
    Ok(ExitStatus::Success)
}

/// What is wrong with a file. The sidecar's words speak of its own pod.
fn problem(error: &ConfigError) -> String {
    match error {
        ConfigError::NotFound => "there is no such file".to_owned(),
        ConfigError::IncludeNotFound(path) => {
            format!("the file includes {}, which does not exist", path.display())
        }
        ConfigError::Unreadable(kind) => format!("cannot be read: {kind}"),
        error => error.to_string(),
    }
}

fn import(
    config: &config::Config,
    namespace: Option<&str>,
    budget: &mut Budget,
) -> Result<Import, ConfigError> {
    let mut import = Import::default();
    let Some(servers) = config.servers.as_ref().and_then(|servers| servers.as_mapping()) else {
        return Ok(import);
    };
    let mut names = BTreeSet::new();
    for (key, value) in servers.flatten(budget)? {
        let Some(server) = key.as_str() else {
            import
                .warnings
                .push("a key of mcp_servers is no text; it is left out".to_owned());
            continue;
        };
        let settings = match value.as_mapping() {
            Some(settings) => settings.flatten(budget)?,
            None => {
                let warning = format!("mcp_servers.{server} is no mapping; it is left out");
                import.warnings.push(warning);
                continue;
            }
        };
        let mut entry = Entry::new(server, object_name(server, &names), &settings);
        let imported = entry.import();
        let about = entry.warnings.into_iter();
        import
            .warnings
            .extend(about.map(|warning| format!("mcp_servers.{server}: {warning}")));
        if let Some(imported) = imported {
            names.insert(imported.name.clone());
            import.documents.extend(documents(&imported, namespace));
        }
    }
    Ok(import)
}

/// A name for the objects of a server, as Kubernetes takes it, that no other has.
fn object_name(server: &str, taken: &BTreeSet<String>) -> String {
    let name = server.to_ascii_lowercase().replace('_', "-");
    let name = match name.trim_matches('-') {
        "" => "server",
        name => name,
    };
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .expect("there is no end of numbers")
}

fn documents(imported: &Imported, namespace: Option<&str>) -> Vec<String> {
    let metadata = |name: &str| match namespace {
        Some(namespace) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": name}),
    };
    let secret = imported.secret.as_ref().map(|secret| {
        let empty: serde_json::Map<String, Value> = secret
            .keys
            .iter()
            .map(|key| (key.name.to_owned(), json!("")))
            .collect();
        let lines: Vec<String> = secret
            .keys
            .iter()
            .map(|key| format!("#   {}: {}\n", key.name, key.origin))
            .collect();
        let comment = format!(
            "# Fill in, and leave this Secret out of later imports, which would empty it again:\n{}",
            lines.concat()
        );
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(&secret.name),
            "stringData": empty,
        });
        format!("{comment}{}", yaml(&object))
    });
    let resource = yaml(&json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": metadata(&imported.name),
        "spec": imported.spec,
    }));
    secret.into_iter().chain([resource]).collect()
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("plain values are YAML")
}

#[cfg(test)]
mod tests;
