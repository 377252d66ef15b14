//! The plan as JSON patch operations. Each looks at what is there and adds what is missing, so that the patch
//! applies to any pod, and is empty for one that has everything. A patch that does not apply would keep the pod
//! from starting, and one that adds a list where there is one would remove the user's.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, Pod, PodSpec, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mcp_auth_protocol::pod::{CONFIG_FOLDER, health};
use serde::Serialize;
use serde_json::Value;

use super::annotations::{self, annotation};
use super::config::{CONFIG_FILE_PATH, flag, words};
use super::earlier::Earlier;
use super::environment::{Environment, escape};
use super::plan::Plan;
use super::settings::Settings;
use super::sidecar;
use super::wrapper::{self, FOLDER_VOLUME, Placement};

/// What the kubelet takes where the pod says nothing.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// How long LiteLLM lets running requests end, where its variable says nothing.
const LITELLM_DRAIN_SECONDS: i64 = 30;
const GRACE_MARGIN_SECONDS: i64 = 5;
/// LiteLLM's client would send calls to the outbound listener through a proxy otherwise.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

pub(super) fn patch(pod: &Pod, spec: &PodSpec, plan: &Plan, settings: &Settings) -> Patch {
    let mut operations = Operations::default();
    let target = &spec.containers[plan.target];
    let at = plan.target.to_string();

    let mut written = vec![(annotations::WRAPPER, wrapper::content(plan.original.as_deref()))];
    if plan.earlier.is_none() || annotation(pod, annotations::INJECTED).is_none() {
        written.push((annotations::INJECTED, settings.operator.version.clone()));
    }
    operations.annotate(pod, &written);
    if annotation(pod, annotations::SKIPPED).is_some() {
        operations.remove(&["metadata", "annotations", annotations::SKIPPED]);
    }

    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let missing = sidecar::volumes(plan)
        .into_iter()
        .filter(|new| !volumes.iter().any(|volume| volume.name == new.name));
    operations.append(&["spec", "volumes"], spec.volumes.is_some(), missing);

    let ours = sidecar::container(plan, settings);
    match &plan.earlier {
        None if spec.init_containers.is_some() => {
            operations.add(&["spec", "initContainers", &plan.position.to_string()], ours);
        }
        None => operations.add(&["spec", "initContainers"], [ours]),
        Some(earlier) => complete(&mut operations, spec, earlier, &ours),
    }

    if plan.ports.inbound.is_some() {
        move_litellm(&mut operations, target, &at, plan.ports.litellm);
        drain(&mut operations, spec, target, &at, plan, settings);
    }
    set_environment(&mut operations, target, &at, plan);
    set_mounts(&mut operations, target, &at, plan);
    Patch(operations.0)
}

/// The mark of a selected pod that needs no sidecar, so that nobody waits for one.
pub(super) fn skip(pod: &Pod, reason: &str) -> Patch {
    let mut operations = Operations::default();
    operations.annotate(pod, &[(annotations::SKIPPED, reason.to_owned())]);
    Patch(operations.0)
}

/// Brings a sidecar that is there already up to date, and leaves alone what others have made of it.
fn complete(operations: &mut Operations, spec: &PodSpec, earlier: &Earlier, ours: &Container) {
    let index = earlier.index.to_string();
    let path = ["spec", "initContainers", &index];
    let Some(theirs) = spec
        .init_containers
        .as_ref()
        .and_then(|containers| containers.get(earlier.index))
    else {
        return;
    };
    let entries = theirs.env.as_deref().unwrap_or_default();
    let mut missing = Vec::new();
    for variable in ours.env.iter().flatten() {
        let found: Vec<usize> = places(entries, &variable.name);
        for place in &found {
            // The API server completes a reference to a field, so that only its presence tells.
            if variable.value.is_some() && entries[*place].value != variable.value {
                operations.replace(&[&path[..], &["env", &place.to_string()]].concat(), variable);
            }
        }
        if found.is_empty() {
            missing.push(variable.clone());
        }
    }
    operations.append(&[&path[..], &["env"]].concat(), theirs.env.is_some(), missing);
    append_mounts(
        operations,
        &path,
        theirs,
        ours.volume_mounts.clone().unwrap_or_default(),
    );
}

/// Appended arguments win over earlier ones and over the image's.
fn move_litellm(operations: &mut Operations, target: &Container, at: &str, port: u16) {
    let words = words(target, &Environment::of(target));
    let port = port.to_string();
    let has = |name, value: &str| flag(&words, &[name]).flatten().as_deref() == Some(value);
    if has("--host", "127.0.0.1") && has("--port", &port) {
        return;
    }
    let arguments = ["--host", "127.0.0.1", "--port", &port];
    operations.append(
        &["spec", "containers", at, "args"],
        target.args.is_some(),
        arguments,
    );
}

/// LiteLLM's SIGTERM waits until traffic goes elsewhere. A hook of the user's stays as it is.
fn drain(
    operations: &mut Operations,
    spec: &PodSpec,
    target: &Container,
    at: &str,
    plan: &Plan,
    settings: &Settings,
) {
    if target
        .lifecycle
        .as_ref()
        .is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
    {
        return;
    }
    let get = HTTPGetAction {
        path: Some(health::DRAIN.to_owned()),
        port: IntOrString::Int(i32::from(plan.ports.health.port())),
        ..HTTPGetAction::default()
    };
    let hook = LifecycleHandler {
        http_get: Some(get),
        ..LifecycleHandler::default()
    };
    let path = ["spec", "containers", at, "lifecycle"];
    if target.lifecycle.is_some() {
        operations.add(&[&path[..], &["preStop"]].concat(), hook);
    } else {
        operations.add(
            &path,
            Lifecycle {
                pre_stop: Some(hook),
                ..Lifecycle::default()
            },
        );
    }

    // The hook's time counts into the period, in which LiteLLM's own draining has to end as well.
    let now = spec.termination_grace_period_seconds;
    let timeout = match Environment::of(target).get("GRACEFUL_SHUTDOWN_TIMEOUT") {
        super::environment::Value::Absent => LITELLM_DRAIN_SECONDS,
        super::environment::Value::Literal(seconds) => seconds.parse().unwrap_or(i64::MAX),
        super::environment::Value::Hidden => i64::MAX,
    };
    let seconds = grace(
        now.unwrap_or(DEFAULT_GRACE_SECONDS),
        timeout,
        i64::from(settings.drain_seconds),
    );
    let path = ["spec", "terminationGracePeriodSeconds"];
    match now {
        None => operations.add(&path, seconds),
        Some(now) if now < seconds => operations.replace(&path, seconds),
        Some(_) => {}
    }
}

/// The user's period, grown by our hook unless it has room for it: what LiteLLM had before it still has.
fn grace(now: i64, litellm: i64, hook: i64) -> i64 {
    now.max(now.min(litellm).saturating_add(hook + GRACE_MARGIN_SECONDS))
}

fn set_environment(operations: &mut Operations, target: &Container, at: &str, plan: &Plan) {
    let entries = target.env.as_deref().unwrap_or_default();
    let path = ["spec", "containers", at, "env"];
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let mut set = |name: &str, value: &str| {
        let wanted = variable(name, escape(value));
        let found = places(entries, name);
        for place in found.iter().filter(|place| entries[**place] != wanted) {
            operations.replace(&[&path[..], &[&place.to_string()]].concat(), &wanted);
        }
        found.is_empty().then_some(wanted)
    };
    let mut missing = Vec::new();
    if plan.ports.inbound.is_some() {
        // The arguments win where they arrive; these must not say otherwise to whoever reads them.
        let _ = (
            set("HOST", "127.0.0.1"),
            set("PORT", &plan.ports.litellm.to_string()),
        );
    }
    missing.extend(set(CONFIG_FILE_PATH, &plan.wrapper.path));

    let mut extend = |name: &str, extended: &dyn Fn(&str) -> Option<String>| {
        let found = places(entries, name);
        // The last one is what the process sees.
        let Some(entry) = found.last().map(|place| &entries[*place]) else {
            return true;
        };
        if entry.value_from.is_some() {
            // Expanded by the kubelet, from the hidden entry before.
            missing.extend(extended(&format!("$({name})")).map(|value| variable(name, value)));
        } else if let (Some(place), Some(value)) =
            (found.last(), extended(entry.value.as_deref().unwrap_or_default()))
        {
            operations.replace(
                &[&path[..], &[&place.to_string()]].concat(),
                variable(name, value),
            );
        }
        false
    };
    let python_path = match &plan.wrapper.placement {
        Placement::FileElsewhere { python_path } => python_path.as_deref(),
        _ => None,
    };
    let mut added = Vec::new();
    if let Some(folder) = python_path
        && extend("PYTHONPATH", &|value| with_folder(value, &escape(folder)))
    {
        // LiteLLM's older images set it to /app, which the pod does not show.
        added.push(variable(
            "PYTHONPATH",
            with_folder("/app", &escape(folder)).unwrap_or_else(|| "/app".to_owned()),
        ));
    }
    // One of the two hides the other from Python, so a missing one is added only where both are.
    let upper_missing = extend("NO_PROXY", &with_loopback);
    let lower_missing = extend("no_proxy", &with_loopback);
    if upper_missing && lower_missing {
        added.extend(["NO_PROXY", "no_proxy"].map(|name| variable(name, LOOPBACK.join(","))));
    }
    missing.extend(added);
    operations.append(&path, target.env.is_some(), missing);
}

fn with_folder(value: &str, folder: &str) -> Option<String> {
    match value {
        "" => Some(folder.to_owned()),
        _ if value.split(':').any(|part| part == folder) => None,
        _ => Some(format!("{folder}:{value}")),
    }
}

fn with_loopback(value: &str) -> Option<String> {
    let has = |wanted: &str| value.split(',').any(|part| part.trim() == wanted);
    if has("*") {
        return None;
    }
    let missing: Vec<&str> = LOOPBACK.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return None;
    }
    let value = value.trim().trim_end_matches(',');
    Some(
        [&[value], missing.as_slice()]
            .concat()
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(","),
    )
}

fn set_mounts(operations: &mut Operations, target: &Container, at: &str, plan: &Plan) {
    let mut mounts = Vec::new();
    match &plan.wrapper.placement {
        Placement::Folder { mount_path, .. } => {
            let place = target
                .volume_mounts
                .iter()
                .flatten()
                .position(|mount| mount.mount_path == *mount_path);
            if let Some((place, mount)) =
                place.and_then(|place| Some((place, target.volume_mounts.as_ref()?.get(place)?)))
                && mount.name != FOLDER_VOLUME
            {
                let place = place.to_string();
                operations.replace(
                    &["spec", "containers", at, "volumeMounts", &place, "name"],
                    FOLDER_VOLUME,
                );
            }
        }
        _ => mounts.push(VolumeMount {
            name: sidecar::IDENTITY_VOLUME.to_owned(),
            mount_path: plan.wrapper.path.clone(),
            sub_path: Some(sidecar::WRAPPER_ITEM.to_owned()),
            read_only: Some(true),
            ..VolumeMount::default()
        }),
    }
    mounts.push(VolumeMount {
        name: sidecar::CONFIG_VOLUME.to_owned(),
        mount_path: CONFIG_FOLDER.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    append_mounts(operations, &["spec", "containers", at], target, mounts);
}

fn append_mounts(
    operations: &mut Operations,
    path: &[&str],
    container: &Container,
    mounts: Vec<VolumeMount>,
) {
    let there = container.volume_mounts.as_deref().unwrap_or_default();
    let missing = mounts
        .into_iter()
        .filter(|new| !there.iter().any(|mount| mount.mount_path == new.mount_path));
    operations.append(
        &[path, &["volumeMounts"]].concat(),
        container.volume_mounts.is_some(),
        missing,
    );
}

fn places(entries: &[EnvVar], name: &str) -> Vec<usize> {
    entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.name == name)
        .map(|(place, _)| place)
        .collect()
}

/// Operations in the order they apply. Paths are given as unescaped tokens (RFC 6901).
#[derive(Default)]
struct Operations(Vec<PatchOperation>);

impl Operations {
    fn add(&mut self, path: &[&str], value: impl Serialize) {
        self.0.push(PatchOperation::Add(AddOperation {
            path: pointer(path),
            value: json(value),
        }));
    }

    fn replace(&mut self, path: &[&str], value: impl Serialize) {
        self.0.push(PatchOperation::Replace(ReplaceOperation {
            path: pointer(path),
            value: json(value),
        }));
    }

    fn remove(&mut self, path: &[&str]) {
        self.0
            .push(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
    }

    /// Appends to the list, or makes it if it is not there.
    fn append<T: Serialize>(&mut self, path: &[&str], is_there: bool, items: impl IntoIterator<Item = T>) {
        let items: Vec<T> = items.into_iter().collect();
        if is_there {
            for item in items {
                self.add(&[path, &["-"]].concat(), item);
            }
        } else if !items.is_empty() {
            self.add(path, items);
        }
    }

    /// Sets the annotations that are not set so yet.
    fn annotate(&mut self, pod: &Pod, wanted: &[(&str, String)]) {
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(key, value)| annotation(pod, key) != Some(value))
            .collect();
        if pod.metadata.annotations.is_some() {
            for (key, value) in missing {
                self.add(&["metadata", "annotations", key], value);
            }
        } else if !missing.is_empty() {
            let annotations: serde_json::Map<String, Value> = missing
                .into_iter()
                .map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str())))
                .collect();
            self.add(&["metadata", "annotations"], annotations);
        }
    }
}

fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("parts of pods are made of plain values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_period_grows_by_the_hook_unless_it_has_room() {
        assert_eq!(grace(30, 30, 5), 40);
        assert_eq!(grace(90, 30, 5), 90);
        assert_eq!(grace(35, 30, 5), 40);
        assert_eq!(grace(60, 60, 5), 70);
        assert_eq!(grace(20, 30, 5), 30);
        assert_eq!(grace(600, i64::MAX, 5), 610);
    }

    #[test]
    fn loopback_is_added_to_what_goes_past_the_proxy() {
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

    #[test]
    fn slashes_and_tildes_in_keys_are_escaped() {
        assert_eq!(
            pointer(&["metadata", "annotations", "a~b/c"]).as_str(),
            "/metadata/annotations/a~0b~1c"
        );
    }
}
