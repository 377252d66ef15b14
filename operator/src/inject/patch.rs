//! The plan as JSON patch operations. Each looks at what is there and adds what is missing, so that the patch
//! applies to any pod, and is empty for one that has everything. A patch that does not apply would keep the pod
//! from starting, and one that adds a list where there is one would remove the user's.

use json_patch::Patch;
use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, Lifecycle, LifecycleHandler, Pod, PodSpec, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mcp_auth_protocol::pod::{CONFIG_FOLDER, health};

use super::annotations::{self, annotation};
use super::command_line::{flag, words};
use super::environment::{Environment, Value};
use super::operations::Operations;
use super::plan::Plan;
use super::previous::Earlier;
use super::reserved::{CONFIG_VOLUME, FOLDER_VOLUME, IDENTITY_VOLUME, WRAPPER_ITEM};
use super::settings::Settings;
use super::sidecar;
use super::variables::{self, places};
use super::wrapper::{self, Placement};

/// What the kubelet takes where the pod says nothing.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// How long LiteLLM lets running requests end, where its variable says nothing.
const LITELLM_DRAIN_SECONDS: i64 = 30;
const GRACE_MARGIN_SECONDS: i64 = 5;

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
    variables::set(&mut operations, target, &at, plan);
    set_mounts(&mut operations, target, &at, plan);
    operations.into_patch()
}

/// The mark of a selected pod that needs no sidecar, so that nobody waits for one.
pub(super) fn skip(pod: &Pod, reason: &str) -> Patch {
    let mut operations = Operations::default();
    operations.annotate(pod, &[(annotations::SKIPPED, reason.to_owned())]);
    operations.into_patch()
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
        Value::Absent => LITELLM_DRAIN_SECONDS,
        Value::Literal(seconds) => seconds.parse().unwrap_or(i64::MAX),
        Value::Hidden => i64::MAX,
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
            name: IDENTITY_VOLUME.to_owned(),
            mount_path: plan.wrapper.path.clone(),
            sub_path: Some(WRAPPER_ITEM.to_owned()),
            read_only: Some(true),
            ..VolumeMount::default()
        }),
    }
    mounts.push(VolumeMount {
        name: CONFIG_VOLUME.to_owned(),
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
}
