//! The variables that injection sets in LiteLLM's environment, and takes from it.

use k8s_openapi::api::core::v1::{Container, EnvVar};

use super::config::WrapperOption;
use super::environment::{Environment, escape};
use super::environment_entries::{entry_indexes, literal, unescaped};
use super::litellm_options::CONFIG_FILE_PATH;
use super::operations::Operations;
use super::plan::Plan;
use super::trusted_proxies::{self, FORWARDED_ALLOW_IPS};

/// LiteLLM's client would send calls to the outbound listener through a proxy otherwise.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

pub(super) fn set(operations: &mut Operations, target: &Container, index: &str, plan: &Plan) {
    let environment = Environment::from_container(target);
    let mut variables = Variables {
        operations,
        path: ["spec", "containers", index, "env"],
        entries: target.env.as_deref().unwrap_or_default(),
        missing: Vec::new(),
    };
    if plan.ports.inbound.is_some() {
        // The arguments override these where they reach LiteLLM; other programs that read them must not see
        // other values.
        variables.replace("HOST", "127.0.0.1");
        variables.replace("PORT", &plan.ports.litellm.to_string());
        let has_list = variables.extend(FORWARDED_ALLOW_IPS, trusted_proxies::with_loopback);
        // One from `envFrom` without loopback would make every client the sidecar's own address.
        if !has_list && Environment::from_container(target).may_come_from_env_from(FORWARDED_ALLOW_IPS) {
            variables.add(FORWARDED_ALLOW_IPS, trusted_proxies::instead_of_hidden(target));
        }
    }
    if plan.wrapper_option == WrapperOption::Variable
        && !variables.replace(CONFIG_FILE_PATH, &plan.wrapper.path)
    {
        variables.add(CONFIG_FILE_PATH, escape(&plan.wrapper.path));
    }
    let has_upper = variables.extend("NO_PROXY", with_loopback);
    let has_lower = variables.extend("no_proxy", with_loopback);
    // Python reads `no_proxy` where both are set: one that `envFrom` brings would hide what was added to the other.
    if has_upper && !has_lower && environment.may_come_from_env_from("no_proxy") {
        variables.add(
            "no_proxy",
            format!("$(no_proxy),$(NO_PROXY),{}", LOOPBACK.join(",")),
        );
    }
    // Python reads only one of the two, so that adding the other one would hide a list of the user's.
    if !has_upper && !has_lower {
        let is_hidden = |name: &&str| environment.may_come_from_env_from(name);
        // The kubelet expands each to what `envFrom` sets, or leaves it as it stands: a name that no host has.
        let hidden = ["NO_PROXY", "no_proxy"].into_iter().filter(is_hidden);
        let list: Vec<String> = hidden
            .map(|name| format!("$({name})"))
            .chain(LOOPBACK.into_iter().map(str::to_owned))
            .collect();
        variables.add("NO_PROXY", list.join(","));
        variables.add("no_proxy", list.join(","));
    }
    let Variables {
        operations,
        path,
        missing,
        ..
    } = variables;
    operations.append(&path, target.env.is_some(), missing);
}

struct Variables<'a> {
    operations: &'a mut Operations,
    path: [&'a str; 4],
    entries: &'a [EnvVar],
    missing: Vec<EnvVar>,
}

impl Variables<'_> {
    /// Gives every entry of the name this value. False if there is none. One that later entries are made of stays, and the
    /// value comes in an entry after them.
    fn replace(&mut self, name: &str, value: &str) -> bool {
        let variable = literal(name, value);
        let indexes = entry_indexes(self.entries, name);
        let reference = format!("$({name})");
        let refers = |entry: &EnvVar| {
            entry
                .value
                .as_ref()
                .is_some_and(|value| value.contains(&reference))
        };
        for index in indexes.iter().filter(|index| self.entries[**index] != variable) {
            if !self.entries[*index + 1..].iter().any(refers) {
                self.replace_entry(*index, &variable);
            } else if indexes.last() == Some(index) {
                self.missing.push(variable.clone());
            }
        }
        !indexes.is_empty()
    }

    /// Extends the value that the process sees, where `extended` gives a new one. False if there is no entry.
    fn extend(&mut self, name: &str, extended: impl Fn(&str) -> Option<String>) -> bool {
        // The last one is what the process sees.
        let Some(index) = entry_indexes(self.entries, name).pop() else {
            return false;
        };
        let entry = &self.entries[index];
        if entry.value_from.is_some() {
            // The kubelet expands this to the value of the entry before.
            if let Some(value) = extended(&format!("$({name})")) {
                self.add(name, value);
            }
        } else if let Some(value) = extended(entry.value.as_deref().unwrap_or_default()) {
            self.replace_entry(index, &unescaped(name, value));
        }
        true
    }

    fn add(&mut self, name: &str, value: String) {
        self.missing.push(unescaped(name, value));
    }

    fn replace_entry(&mut self, index: usize, variable: &EnvVar) {
        self.operations
            .replace(&[&self.path[..], &[&index.to_string()]].concat(), variable);
    }
}

/// A `NO_PROXY` list with the loopback addresses; `None` if they are in it.
fn with_loopback(value: &str) -> Option<String> {
    let has = |wanted: &str| value.split(',').any(|part| part.trim() == wanted);
    if has("*") {
        return None;
    }
    let missing: Vec<&str> = LOOPBACK.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return None;
    }
    let list = value.trim().trim_end_matches(',');
    let separator = if list.is_empty() { "" } else { "," };
    Some(format!("{list}{separator}{}", missing.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_added_to_no_proxy() {
        assert_eq!(with_loopback("").as_deref(), Some("127.0.0.1,localhost"));
        assert_eq!(
            with_loopback("a.example, localhost,").as_deref(),
            Some("a.example, localhost,127.0.0.1")
        );
        assert_eq!(
            with_loopback("$(NO_PROXY)").as_deref(),
            Some("$(NO_PROXY),127.0.0.1,localhost")
        );
        assert_eq!(with_loopback("*"), None);
        assert_eq!(with_loopback("localhost,127.0.0.1"), None);
    }
}
