use super::*;

fn wrapper_for(original: &str, mounts: &str, volumes: &str) -> Result<Wrapper, &'static str> {
    let mounts: Vec<VolumeMount> = serde_saphyr::from_str(mounts).unwrap();
    let spec: PodSpec = serde_saphyr::from_str(&format!("{{containers: [], volumes: {volumes}}}")).unwrap();
    place_wrapper(Some(original), false, &mounts, &spec, &OverlayFolder::Volume)
        .map_err(|error| error.reason())
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
fn what_may_be_missing_is_not_included() {
    let placement = |mount: &str, volume: &str| {
        let mounts: Vec<VolumeMount> =
            serde_saphyr::from_str(&format!("[{{name: c, mountPath: {mount}}}]")).unwrap();
        let spec = format!("{{containers: [], volumes: [{{name: c, {volume}}}]}}");
        let spec: PodSpec = serde_saphyr::from_str(&spec).unwrap();
        let place = |may_be_missing| {
            place_wrapper(
                Some("/etc/l/c.yaml"),
                may_be_missing,
                &mounts,
                &spec,
                &OverlayFolder::Volume,
            )
            .unwrap()
            .placement
        };
        assert_ne!(place(false), Placement::Mirror, "{mount}, {volume}");
        place(true)
    };
    let (in_folder, file) = ("/etc/l", "/etc/l/c.yaml, subPath: c.yaml");
    for (mount, volume) in [
        (in_folder, "configMap: {name: m}"),
        (in_folder, "secret: {secretName: s}"),
        (file, "configMap: {name: m, optional: true}"),
        (file, "secret: {secretName: s, items: [{key: a, path: b.yaml}]}"),
        (
            file,
            "projected: {sources: [{configMap: {name: m, optional: true}}]}",
        ),
    ] {
        assert_eq!(placement(mount, volume), Placement::Mirror, "{mount}, {volume}");
    }
    for volume in [
        "configMap: {name: m}",
        "configMap: {name: m, items: [{key: a, path: c.yaml}]}",
        "projected: {sources: [{configMap: {name: m}}, {secret: {name: s, optional: true}}]}",
    ] {
        assert_eq!(placement(file, volume), Placement::File, "{volume}");
    }
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
        place_wrapper(
            Some("/etc/l/c.yaml"),
            false,
            &mounts,
            &spec,
            &OverlayFolder::Volume
        )
        .unwrap_err()
        .reason(),
        "ConfigNotReadable"
    );
    let with_group = format!("{{containers: [], securityContext: {{fsGroup: 1000}}, {volumes}}}");
    let spec: PodSpec = serde_saphyr::from_str(&with_group).unwrap();
    assert!(
        place_wrapper(
            Some("/etc/l/c.yaml"),
            false,
            &mounts,
            &spec,
            &OverlayFolder::Volume
        )
        .is_ok()
    );
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
