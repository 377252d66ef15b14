//! A container's environment as the kubelet makes it, as far as the pod shows it: the last entry of a name
//! wins, and `$(NAME)` stands for an entry before. What comes from a Secret, a ConfigMap or the pod's status
//! is hidden.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

/// What the pod shows of a variable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum VariableValue {
    Absent,
    Literal(String),
    /// Set, but only the kubelet knows to what.
    Hidden,
}

#[derive(Debug, Default)]
pub(super) struct Environment {
    /// Hidden ones are `None`.
    values: BTreeMap<String, Option<String>>,
    /// Prefixes of the sources of `envFrom`, each of which may set any name that begins with it and that the
    /// list of entries does not set.
    hidden_prefixes: Vec<String>,
}

impl Environment {
    pub fn from_container(container: &Container) -> Self {
        let mut values = BTreeMap::new();
        for entry in container.env.iter().flatten() {
            let value = match (&entry.value_from, &entry.value) {
                (Some(_), _) => None,
                (None, value) => expand(value.as_deref().unwrap_or_default(), &values),
            };
            values.insert(entry.name.clone(), value);
        }
        let sources = container.env_from.iter().flatten();
        let hidden_prefixes = sources
            .map(|source| source.prefix.clone().unwrap_or_default())
            .collect();
        Self {
            values,
            hidden_prefixes,
        }
    }

    pub fn get(&self, name: &str) -> VariableValue {
        match self.values.get(name) {
            None => VariableValue::Absent,
            Some(None) => VariableValue::Hidden,
            Some(Some(value)) => VariableValue::Literal(value.clone()),
        }
    }

    /// As [`get`](Self::get), but hidden where `envFrom` may set it.
    pub fn get_or_hidden(&self, name: &str) -> VariableValue {
        match self.get(name) {
            VariableValue::Absent if self.may_come_from_env_from(name) => VariableValue::Hidden,
            value => value,
        }
    }

    /// Whether `envFrom` may set this name, which the list of entries does not.
    pub fn may_come_from_env_from(&self, name: &str) -> bool {
        let is_possible = |prefix: &String| name.starts_with(prefix.as_str());
        !self.values.contains_key(name) && self.hidden_prefixes.iter().any(is_possible)
    }

    /// Whether it is set to anything but the empty string.
    pub fn is_set(&self, name: &str) -> bool {
        self.values
            .get(name)
            .is_some_and(|value| value.as_ref().is_none_or(|value| !value.is_empty()))
    }

    /// Command and arguments, each `None` where it depends on something hidden.
    pub fn expand_all(&self, list: Option<&Vec<String>>) -> Vec<Option<String>> {
        list.into_iter()
            .flatten()
            .map(|word| expand(word, &self.values))
            .collect()
    }
}

/// Makes a text that the kubelet's expansion turns back into this one: without it, a `$(` in a URL or a `$$`
/// in a cookie's name would be changed.
pub(super) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

/// Kubernetes' expansion: `$(NAME)` is a value, `$$` is `$`, and anything else stands for itself. `None` if a
/// value is hidden. A name that is not in the list may still be a Service's, so it counts as hidden too.
fn expand(text: &str, values: &BTreeMap<String, Option<String>>) -> Option<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            expanded.push_str(values.get(name)?.as_ref()?);
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    Some(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(yaml: &str) -> Environment {
        let container = format!("{{name: litellm, {yaml}}}");
        Environment::from_container(&serde_saphyr::from_str(&container).unwrap())
    }

    #[test]
    fn the_last_entry_of_a_name_wins() {
        let environment = environment(
            "env: [{name: PORT, value: '1'}, {name: PORT, value: '2'}, {name: EMPTY}, {name: KEY, value: a}, \
             {name: KEY, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
        );
        assert_eq!(environment.get("PORT"), VariableValue::Literal("2".into()));
        assert_eq!(environment.get("EMPTY"), VariableValue::Literal(String::new()));
        assert_eq!(environment.get("KEY"), VariableValue::Hidden);
        assert_eq!(environment.get("OTHER"), VariableValue::Absent);
        assert!(environment.is_set("KEY") && !environment.is_set("EMPTY"));
        assert_eq!(environment.get_or_hidden("OTHER"), VariableValue::Absent);
    }

    #[test]
    fn references_are_expanded_as_the_kubelet_does() {
        let environment = environment(
            "env: [{name: DIR, value: /etc}, {name: FILE, value: $(DIR)/c.yaml}, {name: SELF, value: \
             $(LATER)}, {name: LATER, value: x}, {name: ODD, value: 'a$b$$(DIR)$$$(DIR)$(DIR$'}], envFrom: \
             [{secretRef: {name: s}}]",
        );
        assert_eq!(
            environment.get("FILE"),
            VariableValue::Literal("/etc/c.yaml".into())
        );
        assert_eq!(environment.get("SELF"), VariableValue::Hidden);
        assert_eq!(
            environment.get("ODD"),
            VariableValue::Literal("a$b$(DIR)$/etc$(DIR$".into())
        );
        assert_eq!(environment.get_or_hidden("OTHER"), VariableValue::Hidden);
        assert!(!environment.may_come_from_env_from("FILE"), "the list wins");
        let words = environment.expand_all(Some(&vec!["$(FILE)".into(), "$(NONE)".into()]));
        assert_eq!(words, [Some("/etc/c.yaml".to_owned()), None]);
    }

    #[test]
    fn a_source_with_a_prefix_hides_only_names_that_begin_with_it() {
        let environment = environment("envFrom: [{prefix: DB_, secretRef: {name: s}}]");
        assert!(environment.may_come_from_env_from("DB_HOST"));
        assert!(!environment.may_come_from_env_from("CONFIG_FILE_PATH"));
    }

    #[test]
    fn an_escaped_text_survives_the_expansion() {
        for text in ["a$b", "$(HOME)", "$$", "$", "https://h/?q=$(x)&y=$$z"] {
            assert_eq!(expand(&escape(text), &BTreeMap::new()).as_deref(), Some(text));
        }
    }
}
