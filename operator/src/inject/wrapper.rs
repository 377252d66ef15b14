//! The wrapper: a configuration file that includes LiteLLM's own and the overlay, so that LiteLLM reads both.
//! It has to lie beside the original, because LiteLLM looks up Python modules, and 1.80.17 relative includes too, in the
//! wrapper's folder. Its content is known at admission, so it travels in an annotation and no container writes it; where no
//! file can be put beside the original, the sidecar makes a folder that is like the original's, with the wrapper in it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
    PodSpec, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};

use super::annotations;
use super::error::InjectionError;
use super::overlay_folder::OverlayFolder;
use super::path::{folder, is_yaml};
use super::reserved::{WRAPPER_ELSEWHERE, WRAPPER_FILE};

/// Where the wrapper goes.
#[derive(Debug, PartialEq)]
pub(super) struct Wrapper {
    /// Absolute path of the file in LiteLLM's container.
    pub path: String,
    pub placement: Placement,
    /// Mounts that show the original to the sidecar as well.
    pub originals: Vec<VolumeMount>,
    /// Names in the original's folder of LiteLLM's other mounts.
    pub mount_points: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Placement {
    /// A file of its own, mounted by subPath.
    File,
    /// As `File`, where there is no original that it should lie beside.
    FileElsewhere,
    /// In the folder of the overlay, in a folder of links to what the original's folder has, which the sidecar makes.
    Mirror,
    /// In a folder made of the user's sources and the wrapper, which takes the place of this mount's volume.
    /// A file cannot be mounted into the folder of a ConfigMap: the kubelet makes its mount point a
    /// directory.
    Folder {
        mount_path: String,
        volume: ProjectedVolumeSource,
    },
}

/// Content of the wrapper file, written as JSON strings, which YAML 1.1 reads whatever a path holds.
pub(super) fn content(original: Option<&str>, folder: &OverlayFolder) -> String {
    let overlay = folder.overlay();
    let files: Vec<&str> = original.into_iter().chain([overlay.as_str()]).collect();
    format!("include: {}\n", serde_json::json!(files))
}

/// The wrapper in the pod, by downward API.
pub(super) fn projection(path: &str) -> VolumeProjection {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.annotations['{}']", annotations::WRAPPER),
        ..ObjectFieldSelector::default()
    };
    let file = DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(field),
        ..DownwardAPIVolumeFile::default()
    };
    VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![file]),
        }),
        ..VolumeProjection::default()
    }
}

/// Decides where the wrapper goes, by the mount that serves the original. `mounts` are those of LiteLLM's
/// container without injection. `may_be_missing`: LiteLLM starts, without a configuration, where the original is not there.
/// It must then not be included, but lie in a mirror, which leads to nothing in that case.
pub(super) fn place_wrapper(
    original: Option<&str>,
    may_be_missing: bool,
    mounts: &[VolumeMount],
    spec: &PodSpec,
    folder_of_overlay: &OverlayFolder,
) -> Result<Wrapper, InjectionError> {
    let Some(original) = original else {
        return Ok(Wrapper {
            path: WRAPPER_ELSEWHERE.to_owned(),
            placement: Placement::FileElsewhere,
            originals: vec![],
            mount_points: vec![],
        });
    };
    let in_image = || InjectionError::ConfigInImage {
        path: original.to_owned(),
    };
    let serving = innermost(mounts, original).ok_or_else(in_image)?;
    if serving
        .sub_path_expr
        .as_ref()
        .is_some_and(|expression| !expression.is_empty())
    {
        return Err(InjectionError::ConfigSubPathExpression {
            volume: serving.name.clone(),
        });
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let volume = volumes
        .iter()
        .find(|volume| volume.name == serving.name)
        .ok_or_else(in_image)?;
    let inside = inside(serving, original);
    let sub_path = serving.sub_path.as_deref().unwrap_or_default();
    let in_volume = [sub_path, inside]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join("/");
    if !is_readable(volume, &in_volume, spec) {
        return Err(InjectionError::ConfigNotReadable {
            volume: volume.name.clone(),
        });
    }

    let placement = if inside.is_empty() {
        match innermost(mounts, folder(original)) {
            // The folder is the image's, whose files a mirror would lack.
            None if !(may_be_missing && may_lack(volume, sub_path)) => Placement::File,
            // The folder is a mount as well, and takes no further file.
            _ => Placement::Mirror,
        }
    } else {
        let wrapper_path = match inside.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{WRAPPER_FILE}"),
            None => WRAPPER_FILE.to_owned(),
        };
        match projected(volume)?.filter(|_| sub_path.is_empty() && !may_be_missing) {
            Some(mut sources) => {
                sources
                    .sources
                    .get_or_insert_default()
                    .push(projection(&wrapper_path));
                Placement::Folder {
                    mount_path: serving.mount_path.clone(),
                    volume: sources,
                }
            }
            None => Placement::Mirror,
        }
    };
    let path = match placement {
        Placement::Mirror => format!("{}{original}", folder_of_overlay.mirror()),
        _ => format!("{}/{WRAPPER_FILE}", folder(original).trim_end_matches('/')),
    };
    let originals = originals(serving, original, mounts);
    Ok(Wrapper {
        path,
        mount_points: match placement {
            Placement::Mirror => mount_points(original, mounts, &originals),
            _ => vec![],
        },
        placement,
        originals,
    })
}

/// Whether the kubelet can make no folder in what is mounted, into which something else could be mounted.
pub(super) fn is_read_only(mount: &VolumeMount, spec: &PodSpec) -> bool {
    let mut volumes = spec.volumes.iter().flatten();
    let volume = volumes.find(|volume| volume.name == mount.name);
    let is_of_files = |volume: &Volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
            || volume.image.is_some()
    };
    mount.read_only == Some(true) || volume.is_some_and(is_of_files)
}

/// Whether init containers may fill the volume, so that the sidecar has to start after them.
pub(super) fn is_filled_in_the_pod(spec: &PodSpec, name: &str) -> bool {
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == name);
    volume.is_some_and(|volume| {
        volume.config_map.is_none()
            && volume.secret.is_none()
            && volume.projected.is_none()
            && volume.downward_api.is_none()
            && volume.image.is_none()
    })
}

/// The mount that the kubelet would resolve the path to.
pub(super) fn innermost<'a>(mounts: &'a [VolumeMount], path: &str) -> Option<&'a VolumeMount> {
    mounts
        .iter()
        .filter(|mount| covers(mount, path))
        .max_by_key(|mount| mount.mount_path.trim_end_matches('/').len())
}

fn covers(mount: &VolumeMount, path: &str) -> bool {
    let mounted = mount.mount_path.trim_end_matches('/');
    path.strip_prefix(mounted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path below the mount; empty for a mounted file.
fn inside<'a>(mount: &VolumeMount, path: &'a str) -> &'a str {
    path[mount.mount_path.trim_end_matches('/').len()..].trim_start_matches('/')
}

/// The serving mount, that of the original's folder, and other YAML files mounted beside: the original may include what
/// lies there.
fn originals(serving: &VolumeMount, original: &str, mounts: &[VolumeMount]) -> Vec<VolumeMount> {
    let at_folder = innermost(mounts, folder(original)).filter(|mount| {
        mount.mount_path != serving.mount_path && mount.sub_path_expr.as_ref().is_none_or(String::is_empty)
    });
    let siblings = mounts.iter().filter(|mount| {
        mount.mount_path != serving.mount_path
            && is_yaml(&mount.mount_path)
            && folder(&mount.mount_path) == folder(original)
            && mount.sub_path_expr.as_ref().is_none_or(String::is_empty)
    });
    let shown: Vec<&VolumeMount> = std::iter::once(serving)
        .chain(at_folder)
        .chain(siblings)
        .collect();
    let read_only = |mount: &&VolumeMount| VolumeMount {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        sub_path: mount.sub_path.clone(),
        // The container runtime makes the mount points of what is mounted in it, as it does in LiteLLM's container.
        read_only: match shown.iter().any(|other| is_below(other, mount)) {
            true => mount.read_only,
            false => Some(true),
        },
        ..VolumeMount::default()
    };
    shown.iter().map(read_only).collect()
}

fn is_below(mount: &VolumeMount, other: &VolumeMount) -> bool {
    covers(other, &mount.mount_path) && !inside(other, &mount.mount_path).is_empty()
}

/// Names in the folder of the original at which LiteLLM has mounts that are not shown to the sidecar.
fn mount_points(original: &str, mounts: &[VolumeMount], shown: &[VolumeMount]) -> Vec<String> {
    let parent = folder(original).trim_end_matches('/');
    let name = |mount: &VolumeMount| {
        let below = mount.mount_path.strip_prefix(parent)?.strip_prefix('/')?;
        below.split('/').find(|name| !name.is_empty()).map(str::to_owned)
    };
    let is_shown = |mount: &&VolumeMount| shown.iter().any(|other| other.mount_path == mount.mount_path);
    mounts
        .iter()
        .filter(|mount| !is_shown(mount))
        .filter_map(name)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The volume's files as sources of a projected volume; `None` if it is of another kind.
fn projected(volume: &Volume) -> Result<Option<ProjectedVolumeSource>, InjectionError> {
    let (sources, default_mode) = if let Some(source) = &volume.config_map {
        let source_of = ConfigMapProjection {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let projection = VolumeProjection {
            config_map: Some(source_of),
            ..VolumeProjection::default()
        };
        (vec![projection], source.default_mode)
    } else if let Some(source) = &volume.secret {
        let source_of = SecretProjection {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let projection = VolumeProjection {
            secret: Some(source_of),
            ..VolumeProjection::default()
        };
        (vec![projection], source.default_mode)
    } else if let Some(source) = &volume.projected {
        let sources = source.sources.clone().unwrap_or_default();
        // A kind of source that this version does not know would be missing in the copy.
        if sources.contains(&VolumeProjection::default()) {
            return Err(InjectionError::UnknownVolumeSource {
                volume: volume.name.clone(),
            });
        }
        (sources, source.default_mode)
    } else {
        return Ok(None);
    };
    Ok(Some(ProjectedVolumeSource {
        default_mode,
        sources: Some(sources),
    }))
}

/// Whether the pod shows that the volume may have no file of this path: its source may be absent, or the items lack it.
fn may_lack(volume: &Volume, path: &str) -> bool {
    let lacks = |optional: Option<bool>, items: &Option<Vec<KeyToPath>>| {
        let lists = |items: &Vec<KeyToPath>| items.iter().any(|item| item.path == path);
        optional == Some(true)
            || items
                .as_ref()
                .is_some_and(|items| !items.is_empty() && !lists(items))
    };
    if let Some(source) = &volume.config_map {
        lacks(source.optional, &source.items)
    } else if let Some(source) = &volume.secret {
        lacks(source.optional, &source.items)
    } else if let Some(source) = &volume.projected {
        source.sources.iter().flatten().all(|source| {
            let of_map = source.config_map.as_ref();
            let of_secret = source.secret.as_ref();
            of_map.is_none_or(|source| lacks(source.optional, &source.items))
                && of_secret.is_none_or(|source| lacks(source.optional, &source.items))
        })
    } else {
        false
    }
}

/// Whether the sidecar, which is another user, may read the file. Other kinds of volume do not tell.
fn is_readable(volume: &Volume, path: &str, spec: &PodSpec) -> bool {
    // The kubelet gives the files to the pod's group then, and lets it read them.
    if spec
        .security_context
        .as_ref()
        .is_some_and(|context| context.fs_group.is_some())
    {
        return true;
    }
    let item = |items: &Option<Vec<KeyToPath>>| {
        items
            .iter()
            .flatten()
            .find(|item| item.path == path)
            .and_then(|item| item.mode)
    };
    let (mode, default_mode) = if let Some(source) = &volume.config_map {
        (item(&source.items), source.default_mode)
    } else if let Some(source) = &volume.secret {
        (item(&source.items), source.default_mode)
    } else if let Some(source) = &volume.projected {
        let mode = source.sources.iter().flatten().find_map(|source| {
            let config_map = source.config_map.as_ref().and_then(|source| item(&source.items));
            config_map.or_else(|| source.secret.as_ref().and_then(|source| item(&source.items)))
        });
        (mode, source.default_mode)
    } else {
        return true;
    };
    mode.or(default_mode).is_none_or(|mode| mode & 0o004 != 0)
}

#[cfg(test)]
mod tests;
