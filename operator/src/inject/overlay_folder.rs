//! Overlay folder: where the sidecar writes what LiteLLM reads. It is a volume of injection's own, an emptyDir in memory, or,
//! where the pod or the chart asks for it, a folder in the memory that the containers of a pod share: `kubectl drain` refuses
//! a pod with an emptyDir unless it is told to delete such data.
//!
//! A runtime that does not share `/dev/shm` leaves LiteLLM without what the sidecar wrote. LiteLLM must then fail to start, and never
//! start without its configuration: it ends where an included file or the file of `--config` is missing, and goes on
//! without any where that of `CONFIG_FILE_PATH` is (1.80.17 and 1.110.2). So no file in shared memory is named by the variable.

use k8s_openapi::api::core::v1::{PodSpec, VolumeMount};
use mcp_auth_protocol::pod::{CONFIG_FOLDER, MIRROR, OVERLAY_FILE, SHARED_FOLDERS, SHARED_MEMORY};

use super::config::{WrapperOption, can_be_named_by_argument};
use super::environment::Environment;
use super::error::InjectionError;
use super::litellm_options::CONFIG_FILE_PATH;
use super::previous::PreviousInjection;
use super::role::Invocation;
use super::wrapper::{Placement, Wrapper, innermost, place_wrapper};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum OverlayFolder {
    /// The volume `mcpauth-config`.
    Volume,
    SharedMemory {
        path: String,
        /// A volume of LiteLLM's own that hides the runtime's shared memory: the sidecar mounts it there too.
        mount: Option<VolumeMount>,
    },
}

/// Where overlay and wrapper go, and how LiteLLM is told of the wrapper.
#[derive(Debug)]
pub(super) struct Place {
    pub folder: OverlayFolder,
    pub wrapper: Wrapper,
    pub wrapper_option: WrapperOption,
    /// Why the folder is a volume although shared memory was asked for, and the way out.
    pub shared_memory_unused: Option<String>,
}

/// What is known of the pod and of LiteLLM in it.
pub(super) struct Surroundings<'a> {
    pub spec: &'a PodSpec,
    pub environment: &'a Environment,
    pub invocation: &'a Invocation,
    /// Those of LiteLLM's container without injection.
    pub mounts: &'a [VolumeMount],
    pub previous: Option<&'a PreviousInjection>,
    /// Nobody can guess it.
    pub folder_name: &'a str,
}

impl OverlayFolder {
    pub fn path(&self) -> &str {
        match self {
            Self::Volume => CONFIG_FOLDER,
            Self::SharedMemory { path, .. } => path,
        }
    }

    pub fn overlay(&self) -> String {
        format!("{}/{OVERLAY_FILE}", self.path())
    }

    pub fn mirror(&self) -> String {
        format!("{}/{MIRROR}", self.path())
    }
}

/// `wants_shared_memory` is what the pod or the chart asks for. What a previous injection chose stays, where it can.
pub(super) fn place(
    surroundings: &Surroundings<'_>,
    original: Option<&str>,
    wrapper_option: WrapperOption,
    wants_shared_memory: bool,
) -> Result<Place, InjectionError> {
    let Surroundings {
        spec,
        environment,
        mounts,
        previous,
        ..
    } = surroundings;
    // LiteLLM goes on without a file that the variable names and that is not there, and ends without one that is included.
    let may_be_missing = match previous {
        Some(previous) => previous.has_mirror,
        None => wrapper_option == WrapperOption::Variable && environment.is_set(CONFIG_FILE_PATH),
    };
    let in_folder = |folder: OverlayFolder, wrapper_option, shared_memory_unused| {
        // In shared memory no mirror is named by the variable, so that LiteLLM ends there.
        let may_be_missing = may_be_missing && folder == OverlayFolder::Volume;
        let wrapper = place_wrapper(original, may_be_missing, mounts, spec, &folder)?;
        Ok(Place {
            folder,
            wrapper,
            wrapper_option,
            shared_memory_unused,
        })
    };
    let is_wanted = match previous {
        Some(previous) => previous.shared_folder.is_some(),
        None => wants_shared_memory,
    };
    if !is_wanted {
        return in_folder(OverlayFolder::Volume, wrapper_option, None);
    }
    let folder = match shared_memory(surroundings) {
        Ok(folder) => folder,
        Err(why) => return in_folder(OverlayFolder::Volume, wrapper_option, Some(why)),
    };
    let place = in_folder(folder, wrapper_option, None)?;
    if place.wrapper.placement != Placement::Mirror || wrapper_option == WrapperOption::Argument {
        return Ok(place);
    }
    let invocation = surroundings.invocation;
    match previous.is_none() && can_be_named_by_argument(environment, invocation) {
        true => Ok(Place {
            wrapper_option: WrapperOption::Argument,
            ..place
        }),
        false => {
            let why = "LiteLLM starts without any configuration where CONFIG_FILE_PATH names a file that is not there: \
                       name the file by --config, or mount it by subPath or from a ConfigMap or Secret";
            in_folder(OverlayFolder::Volume, wrapper_option, Some(why.to_owned()))
        }
    }
}

/// A folder in the memory that sidecar and LiteLLM share, or why they share none.
fn shared_memory(surroundings: &Surroundings<'_>) -> Result<OverlayFolder, String> {
    let Surroundings {
        spec,
        mounts,
        previous,
        folder_name,
        ..
    } = surroundings;
    if spec.host_ipc == Some(true) {
        return Err(format!(
            "hostIPC makes {SHARED_MEMORY} that of the node: take hostIPC off"
        ));
    }
    // Command lines are shown to every user there, and one names the folder where the wrapper lies in it.
    let shared = [
        (spec.share_process_namespace, "shareProcessNamespace"),
        (spec.host_pid, "hostPID"),
    ];
    if let Some((_, field)) = shared.into_iter().find(|(set, _)| *set == Some(true)) {
        return Err(format!(
            "{field} shows others LiteLLM's command line, and with it a path that nobody may know: take {field} off"
        ));
    }
    let path = match previous.and_then(|previous| previous.shared_folder.clone()) {
        Some(path) => path,
        None => format!("{SHARED_FOLDERS}/{folder_name}"),
    };
    let Some(mount) = innermost(mounts, &path) else {
        return Ok(OverlayFolder::SharedMemory { path, mount: None });
    };
    let mut volumes = spec.volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.name == mount.name);
    // One on a disk serves as well where another webhook has put it over the memory after LiteLLM was told of the files there.
    let is_memory = volume
        .and_then(|volume| volume.empty_dir.as_ref())
        .is_some_and(|empty_dir| previous.is_some() || empty_dir.medium.as_deref() == Some("Memory"));
    let is_whole = mount.mount_path.trim_end_matches('/') == SHARED_MEMORY
        && mount.read_only != Some(true)
        && mount.sub_path_expr.as_ref().is_none_or(String::is_empty);
    if !is_memory || !is_whole {
        return Err(format!(
            "the volume `{}` lies over {SHARED_MEMORY} in LiteLLM's container: make it an emptyDir of the medium Memory, \
             mounted at {SHARED_MEMORY} itself, or take it out",
            mount.name
        ));
    }
    let mount = VolumeMount {
        name: mount.name.clone(),
        mount_path: SHARED_MEMORY.to_owned(),
        sub_path: mount.sub_path.clone(),
        ..VolumeMount::default()
    };
    Ok(OverlayFolder::SharedMemory {
        path,
        mount: Some(mount),
    })
}
