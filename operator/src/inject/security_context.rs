//! The security context of the sidecar's container: that of PodSecurity `restricted`, with what a pod states over it. A
//! platform's policies may want a certain user, group or profile of every container; none of them wants more rights than
//! `restricted` leaves, so that nothing else can be stated.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};
use serde::{Deserialize, Deserializer};

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

/// What a pod's annotation states. Of the fields that are fixed only their values may be repeated, as they are where a
/// whole context is copied.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct StatedSecurityContext {
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
    pub fn parse(text: &str) -> Option<Self> {
        // Of a list the fields would be taken in their order.
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        let stated = Self::deserialize(serde_json::Value::Object(fields)).ok()?;
        let is_id = |id: Option<i64>, least| id.is_none_or(|id| (least..=MAX_ID).contains(&id));
        let is = |stated: Option<bool>, fixed| stated.is_none_or(|value| value == fixed);
        let drops_all = |stated: &StatedCapabilities| stated.drop == ["ALL"];
        let holds = is_id(stated.run_as_user, 1)
            && is_id(stated.run_as_group, 0)
            && stated.seccomp_profile.iter().flatten().all(Profile::is_seccomp)
            && stated.app_armor_profile.iter().all(Profile::is_app_armor)
            && stated.se_linux_options.iter().all(StatedSeLinux::is_allowed)
            && is(stated.run_as_non_root, true)
            && is(stated.read_only_root_filesystem, true)
            && is(stated.allow_privilege_escalation, false)
            && is(stated.privileged, false)
            && stated.capabilities.iter().all(drops_all);
        holds.then_some(stated)
    }
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

/// The sidecar's security context in this pod.
pub(super) fn security_context(spec: &PodSpec, stated: &StatedSecurityContext) -> SecurityContext {
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
    use serde_json::{Value, json};

    use super::*;

    fn context(spec: &str, stated: &str) -> Value {
        let spec: PodSpec = serde_saphyr::from_str(spec).unwrap();
        let stated = StatedSecurityContext::parse(stated).unwrap();
        serde_json::to_value(security_context(&spec, &stated)).unwrap()
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
