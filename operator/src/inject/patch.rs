//! The patch: turns a plan into JSON patch operations. Each adds only what the pod lacks, so that the patch
//! applies to any pod, and is empty for one that is injected already. A patch that does not apply would keep
//! the pod from starting, and one that adds a list where there is one would remove the user's.

use json_patch::Patch;
use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, LocalObjectReference, Pod, PodSpec, Probe, SleepAction,
    VolumeMount,
};
use mcp_auth_protocol::pod::env;

use super::annotations::{self, annotation};
use super::command_line::flag;
use super::config::WrapperOption;
use super::environment::{Environment, VariableValue, escape};
use super::environment_entries::entry_indexes;
use super::marks::{remove_marks, warnings_annotation, with_warning};
use super::mesh;
use super::operations::Operations;
use super::overlay_folder::OverlayFolder;
use super::plan::Plan;
use super::previous::{PreviousInjection, is_moved};
use super::reserved::{CONFIG_VOLUME, FOLDER_VOLUME, TOKEN_VOLUME, WRAPPER_ITEM};
use super::role::ArgumentsPlace;
use super::settings::Settings;
use super::sidecar;
use super::variables;
use super::warning::{SHARED_MEMORY_UNUSED, Warning};
use super::wrapper::{self, Placement};

/// What the kubelet takes where the pod says nothing.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// How long LiteLLM lets running requests end, where its variable says nothing.
const LITELLM_DRAIN_SECONDS: i64 = 30;
const GRACE_MARGIN_SECONDS: i64 = 5;

pub(super) fn patch(
    pod: &Pod,
    spec: &PodSpec,
    plan: &Plan,
    warnings: &[Warning],
    settings: &Settings,
) -> Patch {
    let mut operations = Operations::default();
    let target = &spec.containers[plan.target];
    let index = plan.target.to_string();

    let mut added_annotations = Vec::new();
    // The mirror has one that the sidecar writes.
    if plan.wrapper.placement != Placement::Mirror {
        let content = wrapper::content(plan.original.as_deref(), &plan.folder);
        added_annotations.push((annotations::WRAPPER, content));
    }
    if plan.previous.is_none() || annotation(pod, annotations::INJECTED).is_none() {
        added_annotations.push((annotations::INJECTED, settings.operator.version.clone()));
    }
    // On the second look the first one's stand there; what was not hidden then may be now.
    if plan.previous.is_none() {
        added_annotations.extend(warnings_annotation(warnings));
    } else if plan.shared_memory_unused.is_some() {
        // The second look alone took the overlay out of shared memory.
        let of_memory = warnings
            .iter()
            .filter(|warning| warning.reason == SHARED_MEMORY_UNUSED);
        added_annotations.extend(of_memory.filter_map(|warning| with_warning(pod, warning)));
    }
    operations.annotate(pod, &added_annotations);
    remove_marks(
        &mut operations,
        pod,
        &[annotations::SKIPPED, annotations::NOT_INJECTED],
    );

    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let missing = sidecar::volumes(plan)
        .into_iter()
        .filter(|new| !volumes.iter().any(|volume| volume.name == new.name));
    operations.append(&["spec", "volumes"], spec.volumes.is_some(), missing);

    add_image_pull_secrets(&mut operations, spec, settings);

    let desired_sidecar = sidecar::container(plan, settings);
    match &plan.previous {
        None if spec.init_containers.is_some() => {
            operations.add(
                &["spec", "initContainers", &plan.position.to_string()],
                desired_sidecar,
            );
        }
        None => operations.add(&["spec", "initContainers"], [desired_sidecar]),
        Some(previous) => {
            update_sidecar(&mut operations, spec, previous, &desired_sidecar);
            leave_shared_memory(&mut operations, spec, target, &index, plan);
            move_behind_proxy(&mut operations, spec, previous);
        }
    }

    add_arguments(&mut operations, target, &index, plan);
    if plan.ports.inbound.is_some() {
        set_drain_hook(&mut operations, spec, target, &index, settings);
    }
    variables::set(&mut operations, target, &index, plan);
    set_mounts(&mut operations, target, &index, plan);
    operations.into_patch()
}

/// Adds the Secrets that the sidecar's image is pulled with. Those of the pod's ServiceAccount are in the pod
/// already: the API server copies them before it calls webhooks, and only into a pod that has none.
fn add_image_pull_secrets(operations: &mut Operations, spec: &PodSpec, settings: &Settings) {
    let present = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let missing = settings
        .image_pull_secrets
        .iter()
        .filter(|name| !present.iter().any(|secret| secret.name == **name))
        .map(|name| LocalObjectReference { name: name.clone() });
    operations.append(
        &["spec", "imagePullSecrets"],
        spec.image_pull_secrets.is_some(),
        missing,
    );
}

/// Brings the sidecar of a previous injection up to date, puts back what other webhooks dropped of it, and keeps
/// what they changed.
fn update_sidecar(
    operations: &mut Operations,
    spec: &PodSpec,
    previous: &PreviousInjection,
    desired_sidecar: &Container,
) {
    let index = previous.index.to_string();
    let path = ["spec", "initContainers", &index];
    let Some(present) = spec
        .init_containers
        .as_ref()
        .and_then(|containers| containers.get(previous.index))
    else {
        return;
    };
    let entries = present.env.as_deref().unwrap_or_default();
    let mut missing = Vec::new();
    for variable in desired_sidecar.env.iter().flatten() {
        let indexes = entry_indexes(entries, &variable.name);
        for index in &indexes {
            // The API server adds defaults to a reference to a field, so that only its presence can be
            // compared.
            if variable.value.is_some() && entries[*index].value != variable.value {
                operations.replace(&[&path[..], &["env", &index.to_string()]].concat(), variable);
            }
        }
        if indexes.is_empty() {
            missing.push(variable.clone());
        }
    }
    operations.append(&[&path[..], &["env"]].concat(), present.env.is_some(), missing);
    if present.restart_policy != desired_sidecar.restart_policy {
        // Without it the pod would wait for the sidecar to end.
        operations.add(
            &[&path[..], &["restartPolicy"]].concat(),
            &desired_sidecar.restart_policy,
        );
    }
    for (field, present, desired) in [
        (
            "startupProbe",
            &present.startup_probe,
            &desired_sidecar.startup_probe,
        ),
        (
            "readinessProbe",
            &present.readiness_probe,
            &desired_sidecar.readiness_probe,
        ),
    ] {
        let is_exec = |probe: &Option<Probe>| probe.as_ref().is_some_and(|probe| probe.exec.is_some());
        // A mesh that came after the first look is in the way of what was set then.
        if present.is_none() || is_exec(desired) && !is_exec(present) {
            operations.add(&[&path[..], &[field]].concat(), desired);
        }
    }
    if present.lifecycle.is_none() && desired_sidecar.lifecycle.is_some() {
        operations.add(&[&path[..], &["lifecycle"]].concat(), &desired_sidecar.lifecycle);
    }
    append_mounts(
        operations,
        &path,
        present,
        desired_sidecar.volume_mounts.clone().unwrap_or_default(),
    );
}

/// Where a previous injection chose shared memory and the pod as it is now has none that serves: takes the folder from the
/// sidecar, and moves the path in LiteLLM's command line into the volume, whatever stands around it. LiteLLM would not start
/// otherwise. Nothing else has the folder's name, which nobody can guess.
fn leave_shared_memory(
    operations: &mut Operations,
    spec: &PodSpec,
    target: &Container,
    index: &str,
    plan: &Plan,
) {
    let Some(previous) = plan.previous.as_ref() else {
        return;
    };
    let Some(folder) = previous
        .shared_folder
        .as_deref()
        .filter(|folder| *folder != plan.folder.path())
    else {
        return;
    };
    for (field, words) in [("command", &target.command), ("args", &target.args)] {
        let words = words.iter().flatten().enumerate();
        for (place, word) in words.filter(|(_, word)| word.contains(folder)) {
            let word = word.replace(folder, plan.folder.path());
            operations.replace(&["spec", "containers", index, field, &place.to_string()], word);
        }
    }
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let sidecar = containers.get(previous.index);
    let entries = sidecar
        .and_then(|sidecar| sidecar.env.as_deref())
        .unwrap_or_default();
    // From the last one on, so that the indexes of the others stay.
    for entry in entry_indexes(entries, env::SHARED_FOLDER).into_iter().rev() {
        let sidecar = previous.index.to_string();
        operations.remove(&["spec", "initContainers", &sidecar, "env", &entry.to_string()]);
    }
}

/// Puts the sidecar behind the proxy of a mesh that came in front of LiteLLM, but behind the sidecar, after the
/// first look: ours would start without a network.
fn move_behind_proxy(operations: &mut Operations, spec: &PodSpec, previous: &PreviousInjection) {
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let last_proxy = containers.iter().rposition(mesh::is_native_proxy);
    if let Some(proxy) = last_proxy.filter(|proxy| *proxy > previous.index) {
        let path = |index: usize| index.to_string();
        operations.relocate(
            &["spec", "initContainers", &path(previous.index)],
            &["spec", "initContainers", &path(proxy)],
        );
    }
}

/// Adds the arguments that move LiteLLM to loopback, and name the wrapper where a variable cannot. Added ones
/// override the ones before them, and the image's.
fn add_arguments(operations: &mut Operations, target: &Container, index: &str, plan: &Plan) {
    let port = plan.ports.litellm.to_string();
    let mut arguments = Vec::new();
    if plan.ports.inbound.is_some() && !is_moved(&plan.words, plan.ports.litellm) {
        arguments.extend(["--host", "127.0.0.1", "--port", &port]);
    }
    if plan.wrapper_option == WrapperOption::Argument
        && flag(&plan.words, &["--config", "-c"]).flatten().as_deref() != Some(&plan.wrapper.path)
    {
        arguments.extend(["--config", &plan.wrapper.path]);
    }
    let has_moved = plan
        .previous
        .as_ref()
        .is_some_and(|previous| previous.has_moved(target));
    if arguments.is_empty() || has_moved {
        return;
    }
    let path = ["spec", "containers", index];
    match plan.arguments {
        ArgumentsPlace::Appended => {
            let ends_options = plan.words.last() == Some(&Some("--".to_owned()));
            add_words(operations, target, &path, arguments, ends_options);
        }
        ArgumentsPlace::InScript(place) => {
            let (field, words) = match place.in_command {
                true => ("command", &target.command),
                false => ("args", &target.args),
            };
            let script = words.as_deref().unwrap_or_default().get(place.index);
            if let Some((before, after)) = script.and_then(|script| script.split_at_checked(place.at)) {
                let quoted: Vec<String> = arguments.into_iter().map(quote).collect();
                let script = format!("{before} {}{after}", quoted.join(" "));
                operations.replace(&[&path[..], &[field, &place.index.to_string()]].concat(), script);
            }
        }
        // The plan refuses such a pod, unless nothing is to be added.
        ArgumentsPlace::Unreachable => {}
    }
}

/// Behind the container's words, but before a last one that ends LiteLLM's options.
fn add_words(
    operations: &mut Operations,
    target: &Container,
    container: &[&str],
    words: Vec<&str>,
    ends_options: bool,
) {
    if !ends_options {
        operations.append(&[container, &["args"]].concat(), target.args.is_some(), words);
        return;
    }
    let of_args = target.args.as_deref().filter(|args| !args.is_empty());
    let (field, present) = match of_args {
        Some(args) => ("args", args),
        None => ("command", target.command.as_deref().unwrap_or_default()),
    };
    for (offset, word) in words.into_iter().enumerate() {
        let index = (present.len().saturating_sub(1) + offset).to_string();
        operations.add(&[container, &[field, &index]].concat(), word);
    }
}

/// A word for a shell, which Kubernetes leaves as it is.
fn quote(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:".contains(letter);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    escape(&format!("'{}'", word.replace('\'', "'\\''")))
}

/// Adds a preStop hook, so that LiteLLM gets SIGTERM only when traffic goes to other pods: it only waits, while the
/// sidecar's own hook drains. A hook of the user's stays as it is.
fn set_drain_hook(
    operations: &mut Operations,
    spec: &PodSpec,
    target: &Container,
    index: &str,
    settings: &Settings,
) {
    let hook = LifecycleHandler {
        sleep: Some(SleepAction {
            seconds: i64::from(settings.drain_seconds),
        }),
        ..LifecycleHandler::default()
    };
    let present = target.lifecycle.as_ref();
    // The API server refuses a sleep of no time.
    if settings.drain_seconds == 0 || present.is_some_and(|lifecycle| lifecycle.pre_stop.is_some()) {
        return;
    }
    let path = ["spec", "containers", index, "lifecycle"];
    if present.is_some() {
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

    // The hook's time counts into the grace period, in which LiteLLM's own draining has to end as well.
    let current = spec.termination_grace_period_seconds;
    let timeout = match Environment::from_container(target).get("GRACEFUL_SHUTDOWN_TIMEOUT") {
        VariableValue::Absent => LITELLM_DRAIN_SECONDS,
        VariableValue::Literal(seconds) => seconds.parse().unwrap_or(i64::MAX),
        VariableValue::Hidden => i64::MAX,
    };
    let seconds = grace_period(
        current.unwrap_or(DEFAULT_GRACE_SECONDS),
        timeout,
        i64::from(settings.drain_seconds),
    );
    let path = ["spec", "terminationGracePeriodSeconds"];
    match current {
        None => operations.add(&path, seconds),
        Some(current) if current < seconds => operations.replace(&path, seconds),
        Some(_) => {}
    }
}

/// The user's grace period, extended by the hook's time unless it has room for it: LiteLLM keeps the time to
/// drain that it had without the hook. All in seconds.
fn grace_period(current: i64, litellm_drain: i64, hook: i64) -> i64 {
    current.max(
        current
            .min(litellm_drain)
            .saturating_add(hook + GRACE_MARGIN_SECONDS),
    )
}

fn set_mounts(operations: &mut Operations, target: &Container, index: &str, plan: &Plan) {
    let mut mounts = Vec::new();
    match &plan.wrapper.placement {
        Placement::Folder { mount_path, .. } => {
            let mut target_mounts = target.volume_mounts.iter().flatten().enumerate();
            let at_folder = |(_, mount): &(usize, &VolumeMount)| mount.mount_path == *mount_path;
            if let Some((mount_index, mount)) = target_mounts.find(at_folder)
                && mount.name != FOLDER_VOLUME
            {
                let mount_index = mount_index.to_string();
                operations.replace(
                    &["spec", "containers", index, "volumeMounts", &mount_index, "name"],
                    FOLDER_VOLUME,
                );
            }
        }
        Placement::Mirror => {}
        Placement::File | Placement::FileElsewhere => mounts.push(VolumeMount {
            name: TOKEN_VOLUME.to_owned(),
            mount_path: plan.wrapper.path.clone(),
            sub_path: Some(WRAPPER_ITEM.to_owned()),
            read_only: Some(true),
            ..VolumeMount::default()
        }),
    }
    if plan.folder == OverlayFolder::Volume {
        mounts.push(VolumeMount {
            name: CONFIG_VOLUME.to_owned(),
            mount_path: plan.folder.path().to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    append_mounts(operations, &["spec", "containers", index], target, mounts);
}

fn append_mounts(
    operations: &mut Operations,
    path: &[&str],
    container: &Container,
    mounts: Vec<VolumeMount>,
) {
    let existing = container.volume_mounts.as_deref().unwrap_or_default();
    let missing = mounts
        .into_iter()
        .filter(|new| !existing.iter().any(|mount| mount.mount_path == new.mount_path));
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
        assert_eq!(grace_period(30, 30, 5), 40);
        assert_eq!(grace_period(90, 30, 5), 90);
        assert_eq!(grace_period(35, 30, 5), 40);
        assert_eq!(grace_period(60, 60, 5), 70);
        assert_eq!(grace_period(20, 30, 5), 30);
        assert_eq!(grace_period(600, i64::MAX, 5), 610);
    }
}
