//! The list of hosts that LiteLLM reaches without its proxy, into which injection puts loopback: whether the start
//! command keeps it. LiteLLM would send its calls to the sidecar to the proxy otherwise.

use k8s_openapi::api::core::v1::Container;

use super::environment::{Environment, VariableValue};
use super::role::Invocation;
use super::script_variables::{Removal, assignments, removal, sets_variable};

/// The variables of the list. Python reads the second one where both are set.
const LISTS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The variable of the list that the start command certainly takes loopback from, where LiteLLM may have a proxy.
pub(super) fn lost_list(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> Option<&'static str> {
    if !may_have_proxy(container, environment, invocation) {
        return None;
    }
    if removed_lists(container, environment) == Some(Removal::Certain) {
        return Some(LISTS[0]);
    }
    replaced_list(container, |keeps, is_certain| is_certain && keeps == Some(false))
}

/// The variable of the list that the start command may replace by one without loopback, where LiteLLM may have a proxy.
pub(super) fn list_in_doubt(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
) -> Option<&'static str> {
    if !may_have_proxy(container, environment, invocation) {
        return None;
    }
    match removed_lists(container, environment) {
        Some(_) => Some(LISTS[0]),
        None => replaced_list(container, |keeps, _| keeps != Some(true)),
    }
}

/// Whether the start command takes away every variable of the list that LiteLLM would have.
fn removed_lists(container: &Container, environment: &Environment) -> Option<Removal> {
    let is_stated = |name: &&str| environment.get(name) != VariableValue::Absent;
    let stated: Vec<&str> = LISTS.into_iter().filter(is_stated).collect();
    // Injection adds both where none is stated.
    let listed = if stated.is_empty() { &LISTS[..] } else { &stated };
    let removals = listed.iter().map(|name| removal(container, environment, name));
    removals.min().flatten()
}

/// Whether LiteLLM may be told of a proxy for http, by which it would call the sidecar.
fn may_have_proxy(container: &Container, environment: &Environment, invocation: &Invocation) -> bool {
    let words = || container.command.iter().chain(&container.args).flatten();
    let is_stated = |name: &&str| {
        environment.is_set(name)
            || environment.may_come_from_env_from(name)
            || words().any(|word| sets_variable(word, name))
    };
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    invocation.environment_source.is_some() || names.iter().any(is_stated)
}

/// The first variable of the list that has such an assignment, by whether it keeps loopback and whether it is certain.
fn replaced_list(
    container: &Container,
    is_meant: impl Fn(Option<bool>, bool) -> bool,
) -> Option<&'static str> {
    let words = || container.command.iter().chain(&container.args).flatten();
    LISTS.into_iter().find(|name| {
        let mut all = words().flat_map(|word| assignments(word, name));
        all.any(|assignment| is_meant(keeps_loopback(assignment.value), assignment.is_certain))
    })
}

/// Whether a list that a script sets has what injection adds: by the name of either variable, or in words. `None` where
/// it is made of something that the pod does not show.
fn keeps_loopback(value: &str) -> Option<bool> {
    let refers = |name: &&str| {
        value.match_indices(*name).any(|(at, _)| {
            let next = value[at + name.len()..].chars().next();
            ["$", "${", "$("]
                .iter()
                .any(|before| value[..at].ends_with(before))
                && next.is_none_or(|letter| !(letter.is_ascii_alphanumeric() || letter == '_'))
        })
    };
    let is_kept =
        LISTS.iter().any(refers) || value.contains("127.0.0.1") || value.trim_matches(['"', '\'']) == "*";
    match is_kept {
        false if value.contains(['$', '`', '\\']) => None,
        known => Some(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::role::invocation;

    /// The lists that are lost and in doubt by a start command beside a proxy for http.
    fn lists(command: &str, more: &str) -> (Option<&'static str>, Option<&'static str>) {
        let container: Container = serde_saphyr::from_str(&format!(
            "{{name: c, image: berriai/litellm, command: {command}, env: [{{name: HTTP_PROXY, value: 'http://p'}}{more}]}}"
        ))
        .unwrap();
        let environment = Environment::from_container(&container);
        let invocation = invocation(&container, &environment);
        (
            lost_list(&container, &environment, &invocation),
            list_in_doubt(&container, &environment, &invocation),
        )
    }

    fn of_script(script: &str) -> (Option<&'static str>, Option<&'static str>) {
        lists(&format!("[sh, -c, {script:?}]"), "")
    }

    #[test]
    fn a_script_that_copies_or_quotes_the_list_keeps_it() {
        for script in [
            "export no_proxy=$NO_PROXY; exec litellm",
            "export NO_PROXY=${no_proxy}; exec litellm",
            "export no_proxy=\"${NO_PROXY},.svc\" && exec litellm",
            "export NO_PROXY=\"localhost, 127.0.0.1\"; exec litellm",
            "NO_PROXY='localhost, 127.0.0.1' exec litellm",
            "# NO_PROXY=.svc\nexec litellm",
            "echo \"NO_PROXY=.svc\"; exec litellm",
            "export NO_PROXY='*'; exec litellm",
        ] {
            assert_eq!(of_script(script), (None, None), "{script}");
        }
    }

    #[test]
    fn a_script_that_states_a_list_without_loopback_loses_it() {
        for script in [
            "export NO_PROXY=.svc; exec litellm",
            "NO_PROXY=\"a, b\" exec litellm",
            "export NO_PROXY=; litellm",
        ] {
            assert_eq!(of_script(script).0, Some("NO_PROXY"), "{script}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_known_is_in_doubt_and_not_lost() {
        for script in [
            "export NO_PROXY=$COMPANY_LIST; exec litellm",
            "export NO_PROXY=$NO_PROXY_LIST; exec litellm",
            "export NO_PROXY=$(cat /list); exec litellm",
            "NO_PROXY=.svc curl -O https://e; exec litellm",
            "cat > /e <<EOF\nNO_PROXY=.svc\nEOF\nexec litellm",
        ] {
            assert_eq!(of_script(script), (None, Some("NO_PROXY")), "{script}");
        }
    }

    #[test]
    fn a_script_that_takes_the_list_away_loses_it_where_no_other_is_left() {
        let one = ", {name: NO_PROXY, value: .svc}";
        let script = |text: &str| lists(&format!("[sh, -c, {text:?}]"), one);
        let (lost, doubt) = ((Some("NO_PROXY"), Some("NO_PROXY")), (None, Some("NO_PROXY")));
        assert_eq!(script("unset NO_PROXY; exec litellm"), lost);
        assert_eq!(script("export -n NO_PROXY; exec litellm"), lost);
        assert_eq!(script("[ -z \"$A\" ] || unset NO_PROXY; exec litellm"), doubt);
        assert_eq!(
            script("unset NO_PROXY; export NO_PROXY=127.0.0.1; exec litellm"),
            (None, None)
        );
        assert_eq!(script("unset no_proxy; exec litellm"), (None, None));
        // Injection adds both.
        assert_eq!(of_script("unset NO_PROXY; exec litellm"), (None, None));
        assert_eq!(of_script("unset NO_PROXY no_proxy; exec litellm"), lost);
    }

    #[test]
    fn an_env_that_unsets_the_list_loses_it_where_no_other_is_left() {
        assert_eq!(lists("[env, -u, NO_PROXY, litellm]", ""), (None, None));
        let both = "[env, -u, NO_PROXY, --unset=no_proxy, litellm]";
        assert_eq!(lists(both, "").0, Some("NO_PROXY"));
        let shell = "[env, -u, NO_PROXY, -u, no_proxy, sh, -c, exec litellm]";
        assert_eq!(lists(shell, "").0, Some("NO_PROXY"));
        let one = ", {name: no_proxy, value: .svc}";
        assert_eq!(lists("[env, -u, no_proxy, litellm]", one).0, Some("NO_PROXY"));
        let script = |text: &str| lists(&format!("[sh, -c, {text:?}]"), one).0;
        assert_eq!(script("exec env -uno_proxy litellm"), Some("NO_PROXY"));
        assert_eq!(script("env -u no_proxy curl https://e; exec litellm"), None);
    }
}
