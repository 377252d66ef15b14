//! The security context of the sidecar's container: that of PodSecurity `restricted`, with what the chart states over it,
//! and what a pod states over that. A platform's policies may want a certain user, group or profile of every container; none of them wants more rights than
//! `restricted` leaves, so that nothing else can be stated.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use thiserror::Error;

use super::reserved::SIDECAR;

/// The image's own user, for pods whose user is root.
const USER: i64 = 65532;
/// Highest user and group that Kubernetes takes.
const MAX_ID: i64 = i32::MAX as i64;
/// Types of SELinux that PodSecurity `restricted` allows.
const SELINUX_TYPES: [&str; 4] = [
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];
/// Longest name of an AppArmor profile that Kubernetes takes.
const MAX_PROFILE_BYTES: usize = 4095;

/// What may be stated, and its values: those that PodSecurity `restricted` and the API server take.
const FIELDS: [(&str, &str); 10] = [
    ("runAsUser", "a whole number from 1 to 2147483647"),
    ("runAsGroup", "a whole number from 0 to 2147483647"),
    (
        "seccompProfile",
        "null, {type: RuntimeDefault}, or {type: Localhost, localhostProfile: PATH} with a relative path without `..`",
    ),
    (
        "appArmorProfile",
        "{type: RuntimeDefault}, or {type: Localhost, localhostProfile: NAME}",
    ),
    (
        "seLinuxOptions",
        "a level, and a type of container_t, container_init_t, container_kvm_t and container_engine_t",
    ),
    ("runAsNonRoot", "true"),
    ("readOnlyRootFilesystem", "true"),
    ("allowPrivilegeEscalation", "false"),
    ("privileged", "false"),
    ("capabilities", "{drop: [ALL]}"),
];

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SecurityContextError {
    #[error("securityContext.{0} is not known; a sidecar takes {known}", known = FIELDS.map(|(name, _)| name).join(", "))]
    UnknownField(String),
    #[error("securityContext.{field} must be {expected}")]
    Value {
        field: &'static str,
        expected: &'static str,
    },
}

/// What the settings or a pod's annotation state. Of the fields that are fixed only their values may be repeated, as they are where a
/// whole context is copied.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StatedSecurityContext {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    /// `null` leaves the profile out where the other containers state one.
    #[serde(deserialize_with = "or_null")]
    seccomp_profile: Option<Option<Profile>>,
    app_armor_profile: Option<Profile>,
    se_linux_options: Option<StatedSeLinux>,

    run_as_non_root: Option<bool>,
    read_only_root_filesystem: Option<bool>,
    allow_privilege_escalation: Option<bool>,
    privileged: Option<bool>,
    capabilities: Option<StatedCapabilities>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    r#type: ProfileType,
    localhost_profile: Option<String>,
}

/// `Unconfined` is more than `restricted` leaves.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
enum ProfileType {
    RuntimeDefault,
    Localhost,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct StatedSeLinux {
    level: Option<String>,
    r#type: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct StatedCapabilities {
    drop: Vec<String>,
}

impl StatedSecurityContext {
    /// Nothing if the text is no such context, if the API server would refuse it, or PodSecurity `restricted`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // Of a list the fields would be taken in their order.
        let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
        Self::from_fields(fields).ok()
    }

    fn from_fields(fields: Map<String, Value>) -> Result<Self, SecurityContextError> {
        for (name, value) in &fields {
            let known = FIELDS.into_iter().find(|(known, _)| known == name);
            let (field, expected) = known.ok_or_else(|| SecurityContextError::UnknownField(name.clone()))?;
            let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            if !Self::deserialize(alone).is_ok_and(|stated| stated.is_allowed()) {
                return Err(SecurityContextError::Value { field, expected });
            }
        }
        let stated = Self::deserialize(Value::Object(fields));
        Ok(stated.expect("each of its fields was read alone"))
    }

    fn is_allowed(&self) -> bool {
        let is_id = |id: Option<i64>, least| id.is_none_or(|id| (least..=MAX_ID).contains(&id));
        let is = |stated: Option<bool>, fixed| stated.is_none_or(|value| value == fixed);
        let drops_all = |stated: &StatedCapabilities| stated.drop == ["ALL"];
        is_id(self.run_as_user, 1)
            && is_id(self.run_as_group, 0)
            && self.seccomp_profile.iter().flatten().all(Profile::is_seccomp)
            && self.app_armor_profile.iter().all(Profile::is_app_armor)
            && self.se_linux_options.iter().all(StatedSeLinux::is_allowed)
            && is(self.run_as_non_root, true)
            && is(self.read_only_root_filesystem, true)
            && is(self.allow_privilege_escalation, false)
            && is(self.privileged, false)
            && self.capabilities.iter().all(drops_all)
    }

    /// What a pod states, over what `settings` state for all. What is fixed need not be repeated.
    fn over(&self, settings: &Self) -> Self {
        Self {
            run_as_user: self.run_as_user.or(settings.run_as_user),
            run_as_group: self.run_as_group.or(settings.run_as_group),
            seccomp_profile: (self.seccomp_profile.clone()).or_else(|| settings.seccomp_profile.clone()),
            app_armor_profile: (self.app_armor_profile.clone())
                .or_else(|| settings.app_armor_profile.clone()),
            se_linux_options: (self.se_linux_options.clone()).or_else(|| settings.se_linux_options.clone()),
            ..Self::default()
        }
    }
}

/// For `serde(deserialize_with)`, of the settings' file.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<StatedSecurityContext, D::Error> {
    let fields = Option::<Map<String, Value>>::deserialize(deserializer)?;
    StatedSecurityContext::from_fields(fields.unwrap_or_default()).map_err(serde::de::Error::custom)
}

impl Profile {
    /// Kubernetes' rule: a path below the kubelet's folder of profiles.
    fn is_seccomp(&self) -> bool {
        self.has_name_where_it_needs_one(|path| {
            !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|segment| segment == "..")
        })
    }

    fn is_app_armor(&self) -> bool {
        self.has_name_where_it_needs_one(|name| {
            !name.is_empty() && name.trim() == name && name.len() <= MAX_PROFILE_BYTES
        })
    }

    fn has_name_where_it_needs_one(&self, is_name: impl Fn(&str) -> bool) -> bool {
        match self.r#type {
            ProfileType::Localhost => self.localhost_profile.as_deref().is_some_and(is_name),
            ProfileType::RuntimeDefault => self.localhost_profile.is_none(),
        }
    }
}

impl ProfileType {
    fn as_str(self) -> &'static str {
        match self {
            Self::RuntimeDefault => "RuntimeDefault",
            Self::Localhost => "Localhost",
        }
    }
}

impl StatedSeLinux {
    fn is_allowed(&self) -> bool {
        let type_ = self.r#type.as_deref();
        type_.is_none_or(|type_| SELINUX_TYPES.contains(&type_))
    }
}

/// The sidecar's security context in this pod, by what the settings and the pod state.
pub(super) fn security_context(
    spec: &PodSpec,
    settings: &StatedSecurityContext,
    of_pod: &StatedSecurityContext,
) -> SecurityContext {
    let stated = of_pod.over(settings);
    let of_pod = spec.security_context.as_ref();
    let pod_is_root = of_pod.and_then(|context| context.run_as_user) == Some(0);
    let runtime_default = || SeccompProfile {
        type_: ProfileType::RuntimeDefault.as_str().to_owned(),
        localhost_profile: None,
    };
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: stated.run_as_user.or(pod_is_root.then_some(USER)),
        run_as_group: stated.run_as_group,
        read_only_root_filesystem: Some(true),
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        seccomp_profile: match &stated.seccomp_profile {
            Some(profile) => profile.as_ref().map(|profile| SeccompProfile {
                type_: profile.r#type.as_str().to_owned(),
                localhost_profile: profile.localhost_profile.clone(),
            }),
            None => others_state_seccomp(spec).then(runtime_default),
        },
        app_armor_profile: stated.app_armor_profile.as_ref().map(|profile| AppArmorProfile {
            type_: profile.r#type.as_str().to_owned(),
            localhost_profile: profile.localhost_profile.clone(),
        }),
        se_linux_options: stated.se_linux_options.as_ref().map(|options| SELinuxOptions {
            level: options.level.clone(),
            type_: options.r#type.clone(),
            ..SELinuxOptions::default()
        }),
        ..SecurityContext::default()
    }
}

/// Whether a container states a seccomp profile and the pod, from which ours would have it, does not. Only
/// then ours states one as well: a profile that nobody asked for is refused where the pod's policy allows none
/// (OpenShift's `anyuid`), and where a policy demands one, all containers have it.
fn others_state_seccomp(spec: &PodSpec) -> bool {
    let of_pod = spec.security_context.as_ref();
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut others = containers.filter(|container| container.name != SIDECAR);
    of_pod.is_none_or(|context| context.seccomp_profile.is_none())
        && others.any(|container| {
            let context = container.security_context.as_ref();
            context.is_some_and(|context| context.seccomp_profile.is_some())
        })
}

/// Tells a stated `null` from nothing stated.
fn or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(spec: &str, stated: &str) -> Value {
        context_over("{}", spec, stated)
    }

    fn context_over(settings: &str, spec: &str, stated: &str) -> Value {
        let spec: PodSpec = serde_saphyr::from_str(spec).unwrap();
        let [settings, stated] = [settings, stated].map(|text| StatedSecurityContext::parse(text).unwrap());
        serde_json::to_value(security_context(&spec, &settings, &stated)).unwrap()
    }

    #[test]
    fn what_a_pod_states_goes_before_what_the_chart_states_field_by_field() {
        let chart = r#"{"runAsUser": 1001, "runAsGroup": 2, "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0:c1"}}"#;
        let made = context_over(
            chart,
            "containers: []",
            r#"{"runAsUser": 1002, "seccompProfile": null}"#,
        );
        assert_eq!(
            (&made["runAsUser"], &made["runAsGroup"]),
            (&json!(1002), &json!(2))
        );
        assert_eq!(made.get("seccompProfile"), None);
        assert_eq!(made["seLinuxOptions"]["level"], "s0:c1");
        let root = "{containers: [], securityContext: {runAsUser: 0}}";
        assert_eq!(context_over(chart, root, "{}")["runAsUser"], 1001);
    }

    #[test]
    fn what_a_pod_states_stands_beside_what_is_fixed() {
        let expected = json!({
            "runAsUser": 1000700000, "runAsGroup": 0, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/sidecar.json"},
            "appArmorProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0:c26,c5", "type": "container_t"},
        });
        assert_eq!(context("containers: []", &expected.to_string()), expected);
    }

    #[test]
    fn a_pod_that_runs_as_root_gets_another_user_unless_one_is_stated() {
        let root = "{containers: [], securityContext: {runAsUser: 0}}";
        assert_eq!(context(root, "{}")["runAsUser"], 65532);
        assert_eq!(context(root, r#"{"runAsUser": 1001}"#)["runAsUser"], 1001);
        assert_eq!(context("containers: []", "{}").get("runAsUser"), None);
    }

    #[test]
    fn a_seccomp_profile_is_that_of_the_other_containers_one_that_is_stated_or_none() {
        let beside = "containers: [{name: c, securityContext: {seccompProfile: {type: RuntimeDefault}}}]";
        assert_eq!(context(beside, "{}")["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(
            context(beside, r#"{"seccompProfile": null}"#).get("seccompProfile"),
            None
        );
        let stated = r#"{"seccompProfile": {"type": "RuntimeDefault"}}"#;
        assert_eq!(
            context("containers: []", stated)["seccompProfile"]["type"],
            "RuntimeDefault"
        );
    }

    #[test]
    fn nothing_that_pod_security_restricted_or_the_api_server_refuses_can_be_stated() {
        for wrong in [
            "",
            "null",
            "1001",
            "[]",
            r#"{"runAsUser": 0}"#,
            r#"{"runAsUser": "1001"}"#,
            r#"{"runAsUser": 4294967295}"#,
            r#"{"runAsGroup": -1}"#,
            r#"{"runAsNonRoot": false}"#,
            r#"{"privileged": true}"#,
            r#"{"allowPrivilegeEscalation": true}"#,
            r#"{"readOnlyRootFilesystem": false}"#,
            r#"{"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}"#,
            r#"{"capabilities": {"drop": ["NET_RAW"]}}"#,
            r#"{"capabilities": {}}"#,
            r#"{"seccompProfile": {"type": "Unconfined"}}"#,
            r#"{"seccompProfile": {"type": "Localhost"}}"#,
            r#"{"seccompProfile": {"type": "Localhost", "localhostProfile": "/etc/p.json"}}"#,
            r#"{"seccompProfile": {"type": "Localhost", "localhostProfile": "a/../../p.json"}}"#,
            r#"{"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "p.json"}}"#,
            r#"{"appArmorProfile": {"type": "Unconfined"}}"#,
            r#"{"appArmorProfile": {"type": "Localhost", "localhostProfile": " p"}}"#,
            r#"{"seLinuxOptions": {"type": "spc_t"}}"#,
            r#"{"seLinuxOptions": {"user": "system_u"}}"#,
            r#"{"procMount": "Unmasked"}"#,
            r#"{"runAsuser": 1001}"#,
        ] {
            assert_eq!(StatedSecurityContext::parse(wrong), None, "{wrong}");
        }
    }
}
