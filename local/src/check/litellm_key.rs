//! The key that the check calls LiteLLM with: its master key, read as LiteLLM reads it.

use std::path::Path;

use mcp_auth_sidecar::control::litellm_config::config;
use mcp_auth_sidecar::control::litellm_config::node::Budget;
use mcp_auth_sidecar::control::litellm_config::parse::parse;

use crate::settings::Variables;

const VARIABLE: &str = "LITELLM_MASTER_KEY";

/// `general_settings.master_key` of the last file that has general settings, or `LITELLM_MASTER_KEY`.
pub fn find(config: Option<&Path>, variables: &Variables) -> Option<String> {
    let mut budget = Budget::default();
    let files = config.and_then(|path| config::read(path, &mut budget).ok());
    let mut stated = None;
    for file in files.map(|config| config.files).unwrap_or_default() {
        let Ok(Some(document)) = std::fs::read_to_string(file).map(|text| parse(&text).ok().flatten()) else {
            continue;
        };
        let settings = document
            .as_mapping()
            .and_then(|top| top.get("general_settings", &mut budget).ok().flatten());
        // A mapping is replaced as a whole by that of a later file.
        if let Some(settings) = settings.as_ref().and_then(|settings| settings.as_mapping()) {
            let key = settings.get("master_key", &mut budget).ok().flatten();
            stated = key.and_then(|key| key.as_str().map(str::to_owned));
        }
    }
    let stated = match stated.as_deref().map(|text| text.strip_prefix("os.environ/")) {
        Some(Some(name)) => variables.get(name).map(str::to_owned),
        _ => stated,
    };
    stated.or_else(|| variables.get(VARIABLE).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_one_that_litellm_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let variables: Variables = [("KEY", "sk-variable"), (VARIABLE, "sk-default")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        for (text, expected) in [
            ("general_settings: {master_key: sk-stated}", "sk-stated"),
            ("general_settings: {master_key: os.environ/KEY}", "sk-variable"),
            ("general_settings: {}", "sk-default"),
            (
                "general_settings: {master_key: sk-first}\ninclude: [more.yaml]",
                "sk-more",
            ),
        ] {
            std::fs::write(
                folder.path().join("more.yaml"),
                "general_settings: {master_key: sk-more}",
            )
            .unwrap();
            std::fs::write(&path, text).unwrap();
            assert_eq!(find(Some(&path), &variables).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(find(None, &Variables::default()), None);
    }
}
