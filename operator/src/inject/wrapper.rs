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
/// container without injection.
pub(super) fn place_wrapper(
    original: Option<&str>,
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
            None => Placement::File,
            // The folder is a mount as well, and takes no further file.
            Some(_) => Placement::Mirror,
        }
    } else {
        let wrapper_path = match inside.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{WRAPPER_FILE}"),
            None => WRAPPER_FILE.to_owned(),
        };
        match projected(volume)?.filter(|_| sub_path.is_empty()) {
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
mod tests {
    use super::*;

    fn wrapper_for(original: &str, mounts: &str, volumes: &str) -> Result<Wrapper, &'static str> {
        let mounts: Vec<VolumeMount> = serde_saphyr::from_str(mounts).unwrap();
        let spec: PodSpec =
            serde_saphyr::from_str(&format!("{{containers: [], volumes: {volumes}}}")).unwrap();
        place_wrapper(Some(original), &mounts, &spec, &OverlayFolder::Volume).map_err(|error| error.reason())
    }

    #[test]
    fn a_mounted_file_gets_a_file_beside_it() {
        let wrapper = wrapper_for(
            "/etc/l/config.yaml",
            "[{name: c, mountPath: /etc/l/config.yaml, subPath: config.yaml}, {name: c, mountPath: \
             /etc/l/models.yaml, subPath: models.yaml}, {name: d, mountPath: /etc/l/key.pem, subPath: k}]",
            "[{name: c, configMap: {name: c}}, {name: d, secret: {secretName: d}}]",
        )
        .unwrap();
        assert_eq!(
            (wrapper.path.as_str(), wrapper.placement),
            ("/etc/l/mcpauth-wrapper.yaml", Placement::File)
        );
        let seen: Vec<&str> = wrapper
            .originals
            .iter()
            .map(|mount| mount.mount_path.as_str())
            .collect();
        assert_eq!(seen, ["/etc/l/config.yaml", "/etc/l/models.yaml"]);
        assert!(
            wrapper
                .originals
                .iter()
                .all(|mount| mount.read_only == Some(true))
        );
    }

    #[test]
    fn a_file_in_a_mounted_folder_cannot_have_one_beside_it() {
        let wrapper = wrapper_for(
            "/etc/l/config.yaml",
            "[{name: d, mountPath: /etc/l/}, {name: c, mountPath: /etc/l/config.yaml, subPath: config.yaml}]",
            "[{name: c, configMap: {name: c}}, {name: d, emptyDir: {}}]",
        )
        .unwrap();
        assert_eq!(wrapper.path, "/var/run/mcpauth/config/mirror/etc/l/config.yaml");
        assert_eq!(wrapper.placement, Placement::Mirror);
    }

    #[test]
    fn a_mount_in_which_others_lie_takes_their_mount_points_in_the_sidecar_too() {
        let wrapper = wrapper_for(
            "/etc/l/config.yaml",
            "[{name: d, mountPath: /etc/l}, {name: c, mountPath: /etc/l/models.yaml, subPath: m}, \
              {name: s, mountPath: /etc/l/hooks/keys}, {name: s, mountPath: /etc/lit/other}]",
            "[{name: c, configMap: {name: c}}, {name: d, persistentVolumeClaim: {claimName: d}}, {name: s, emptyDir: {}}]",
        )
        .unwrap();
        let shown: Vec<_> = wrapper
            .originals
            .iter()
            .map(|mount| (mount.mount_path.as_str(), mount.read_only))
            .collect();
        assert_eq!(shown, [("/etc/l", None), ("/etc/l/models.yaml", Some(true))]);
        assert_eq!(wrapper.mount_points, ["hooks"]);
    }

    #[test]
    fn a_folder_is_made_anew_with_all_that_its_volume_says() {
        let wrapper = wrapper_for(
            "/etc/l/sub/config.yaml",
            "[{name: c, mountPath: /etc/l}]",
            "[{name: c, secret: {secretName: s, optional: true, defaultMode: 292, \
              items: [{key: a, path: sub/config.yaml, mode: 420}]}}]",
        )
        .unwrap();
        assert_eq!(wrapper.path, "/etc/l/sub/mcpauth-wrapper.yaml");
        let Placement::Folder { mount_path, volume } = wrapper.placement else {
            panic!("not a folder");
        };
        let expected: ProjectedVolumeSource = serde_saphyr::from_str(
            "{defaultMode: 292, sources: [{secret: {name: s, optional: true, items: [{key: a, path: \
             sub/config.yaml, mode: 420}]}}, {downwardAPI: {items: [{path: sub/mcpauth-wrapper.yaml, \
             fieldRef: {fieldPath: \"metadata.annotations['mcpauth.dev/wrapper']\"}}]}}]}",
        )
        .unwrap();
        assert_eq!((mount_path.as_str(), volume), ("/etc/l", expected));
    }

    #[test]
    fn a_folder_name_is_no_prefix_of_another() {
        let mounts = "[{name: c, mountPath: /etc/lit}]";
        assert_eq!(
            wrapper_for("/etc/litellm/c.yaml", mounts, "[{name: c, configMap: {name: c}}]").unwrap_err(),
            "ConfigInImage"
        );
    }

    #[test]
    fn a_file_that_only_root_reads_is_refused_unless_the_pod_has_a_group() {
        let mounts: Vec<VolumeMount> = serde_saphyr::from_str("[{name: c, mountPath: /etc/l}]").unwrap();
        let volumes = "volumes: [{name: c, secret: {secretName: s, defaultMode: 256}}]";
        let spec: PodSpec = serde_saphyr::from_str(&format!("{{containers: [], {volumes}}}")).unwrap();
        assert_eq!(
            place_wrapper(Some("/etc/l/c.yaml"), &mounts, &spec, &OverlayFolder::Volume)
                .unwrap_err()
                .reason(),
            "ConfigNotReadable"
        );
        let with_group = format!("{{containers: [], securityContext: {{fsGroup: 1000}}, {volumes}}}");
        let spec: PodSpec = serde_saphyr::from_str(&with_group).unwrap();
        assert!(place_wrapper(Some("/etc/l/c.yaml"), &mounts, &spec, &OverlayFolder::Volume).is_ok());
    }

    #[test]
    fn the_content_is_yaml_whatever_the_path_holds() {
        let text = content(Some("/etc/a, \"b\": #c/config.yaml"), &OverlayFolder::Volume);
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "include": ["/etc/a, \"b\": #c/config.yaml", "/var/run/mcpauth/config/overlay.yaml"],
            })
        );
        assert_eq!(
            content(None, &OverlayFolder::Volume),
            "include: [\"/var/run/mcpauth/config/overlay.yaml\"]\n"
        );
    }
}
