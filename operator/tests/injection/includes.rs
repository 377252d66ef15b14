//! What LiteLLM of an injected pod reads, with real files: those of the pod's mounts, what the sidecar's own code writes beside them,
//! and the rules by which LiteLLM 1.80.17 follows `include` (`_process_includes`): each path from the folder of the root file,
//! whichever file states it, in the order of `list.extend` while the list is gone through.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mcp_auth_protocol::sync::Route;
use mcp_auth_sidecar::control::litellm_config::mirror::Mirror;
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::litellm_config::{Input, Overlay, render};
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use serde_json::Value;

use crate::input::{list, sidecar};
use crate::runs::litellm_container;

/// A pod's file system below a folder of this machine. Sidecar and LiteLLM see the same at the same paths, as far as both have it.
pub struct Files {
    root: tempfile::TempDir,
    /// What a mount shows: paths of files below it, and their text.
    shown: BTreeMap<&'static str, Vec<(&'static str, String)>>,
}

impl Files {
    pub fn new(shown: BTreeMap<&'static str, Vec<(&'static str, String)>>) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, shown }
    }

    fn path(&self, of_pod: &str) -> PathBuf {
        self.root.path().join(of_pod.trim_start_matches('/'))
    }

    fn mount(&self, container: &Value) {
        for mount in list(container, "volumeMounts") {
            let at = mount["mountPath"].as_str().unwrap().trim_end_matches('/');
            for (name, text) in self.shown.get(at).into_iter().flatten() {
                let path = match name.is_empty() {
                    true => self.path(at),
                    false => self.path(at).join(name),
                };
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
    }

    /// That LiteLLM reads the files of its configuration that it read without injection, in their order, and the overlay, and
    /// finds the modules that lie beside the configuration. Where the sidecar cannot read the configuration, LiteLLM
    /// reads that alone. True if the overlay was read.
    pub fn assert_read_as_without_injection(
        &self,
        name: &str,
        config: &str,
        before: &Value,
        pod: &Value,
    ) -> bool {
        let original = self.path(config);
        self.mount(before);
        let expected = read(&original).unwrap_or_else(|error| panic!("{name}: {error} without injection"));
        let modules = modules(&original);
        for entry in fs::read_dir(self.root.path()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }

        let (rendered, mirror) = self.start_sidecar(config, pod);
        self.mount(litellm_container(pod).unwrap());
        let wrapper = match &mirror {
            Some(mirror) => mirror.wrapper(),
            None => self.write_wrapper(config, pod),
        };
        let mut found = read(&wrapper).unwrap_or_else(|error| panic!("{name}: {error} with injection"));
        let overlays: Vec<PathBuf> = rendered.files.iter().map(|(path, _)| canonical(path)).collect();
        let has_overlay = found.iter().any(|path| overlays.contains(path));
        found.retain(|path| {
            !overlays.contains(path) && *path != canonical(&wrapper) || expected.contains(path)
        });
        assert_eq!(found, expected, "{name}");
        assert_eq!(self::modules(&wrapper), modules, "{name}");
        if rendered.include_candidates.is_some() {
            assert!(has_overlay, "{name}: {:?}", rendered.problems);
        }
        has_overlay && !rendered.servers.is_empty()
    }

    /// That LiteLLM finds no file where `CONFIG_FILE_PATH` leads it with injection, as it finds none without: it then goes on,
    /// and would end where the wrapper were there and what it includes were not.
    pub fn assert_still_missing(&self, name: &str, config: &str, pod: &Value) {
        assert!(!self.path(config).exists(), "{name}");
        let (_, mirror) = self.start_sidecar(config, pod);
        let mirror = mirror.unwrap_or_else(|| panic!("{name}: the wrapper is no mirror's"));
        self.mount(litellm_container(pod).unwrap());
        assert!(
            !mirror.wrapper().exists(),
            "{name}: {}",
            mirror.wrapper().display()
        );
    }

    /// What the sidecar writes for LiteLLM.
    fn start_sidecar(&self, config: &str, pod: &Value) -> (Overlay, Option<Mirror>) {
        let original = self.path(config);
        // The sidecar starts first, and sees its own mounts alone.
        self.mount(sidecar(pod));
        let env: BTreeMap<&str, &str> = list(sidecar(pod), "env")
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)))
            .collect();
        let overlay = self.path(env["MCPAUTH_OVERLAY"]);
        fs::create_dir_all(overlay.parent().unwrap()).unwrap();
        let rendered = render(&Input {
            original: Some(&original),
            overlay: &overlay,
            routes: &serde_json::from_str::<Vec<Route>>(env["MCPAUTH_ROUTES"]).unwrap(),
            outbound: "127.0.0.1:16481".parse().unwrap(),
            outbound_secret: &OutboundSecret::generate(),
            inbound: true,
            auth_blocks: false,
            static_headers: &StaticHeaders::resume(overlay.parent().unwrap()),
            tool_prefix_separator: "-",
        });
        rendered.write().unwrap();
        let mirror = env.get("MCPAUTH_CONFIG_MIRROR").map(|root| {
            let mount_points = env.get("MCPAUTH_CONFIG_MOUNT_POINTS");
            let names = mount_points
                .iter()
                .flat_map(|names| names.split(':'))
                .map(Into::into);
            Mirror::new(&self.path(root), &original, names.collect())
        });
        if let Some(mirror) = &mirror {
            match &rendered.include_candidates {
                Some(candidates) => mirror.update(candidates, &overlay).unwrap(),
                None => mirror.bypass().unwrap(),
            }
        }
        (rendered, mirror)
    }

    /// As the kubelet does, with the annotation's paths below the folder.
    fn write_wrapper(&self, config: &str, pod: &Value) -> PathBuf {
        let text = pod["metadata"]["annotations"]["mcpauth.dev/wrapper"]
            .as_str()
            .unwrap();
        let wrapper: Value = serde_saphyr::from_str(text).unwrap();
        let include = list(&wrapper, "include").iter();
        let include: Vec<PathBuf> = include.map(|path| self.path(path.as_str().unwrap())).collect();
        let path = self.path(config).with_file_name("mcpauth-wrapper.yaml");
        fs::write(&path, serde_json::json!({"include": include}).to_string()).unwrap();
        path
    }
}

/// The files that LiteLLM 1.80.17 reads, in its order.
fn read(root: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = root.parent().unwrap();
    let mut files = vec![canonical(root)];
    let mut includes = included_by(root)?;
    let mut next = 0;
    while next < includes.len() {
        let path = folder.join(&includes[next]);
        if !path.exists() {
            return Err(format!("{} is not found", path.display()));
        }
        files.push(canonical(&path));
        includes.extend(included_by(&path)?);
        next += 1;
    }
    Ok(files)
}

fn included_by(path: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config: Value =
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let include = list(&config, "include").iter();
    Ok(include.map(|path| path.as_str().unwrap().to_owned()).collect())
}

/// What Python finds beside the file, by its name, and where that is.
fn modules(config: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(config.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let modules = paths.filter(|path| path.extension().is_some_and(|extension| extension == "py"));
    modules
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                canonical(&path),
            )
        })
        .collect()
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap()
}

#[test]
fn litellm_starts_without_the_file_of_its_variable_as_it_did_before() {
    for name in [
        "difficult-configuration-of-another-key",
        "difficult-configuration-perhaps-absent",
    ] {
        let inputs = crate::input::Input::all();
        let input = inputs.into_iter().find(|input| input.name == name).unwrap();
        let pod = input.injected(&input.pod).unwrap();
        Files::new(BTreeMap::new()).assert_still_missing(name, "/etc/litellm/config.yaml", &pod);
    }
}
