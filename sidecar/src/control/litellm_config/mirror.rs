//! The mirror: a folder in which LiteLLM finds a wrapper configuration beside everything that lies beside its own, for
//! where the wrapper itself cannot lie there. LiteLLM 1.80.17 looks up each relative `include`, whichever file states
//! it, and each Python module in the folder of the root file alone; 1.109.1 looks beside the file that states it first.
//!
//! Below the mirror's root stands a part of the file system, at the same paths: the original's folder as a folder of
//! symbolic links with the wrapper under the original's name, and links to what includes name elsewhere (`../shared`).
//! So whatever LiteLLM asks for leads to the file that it would have found without the wrapper.
//!
//! Where the configuration cannot be read here, the root itself is a link to `/`: LiteLLM then reads its own file at
//! the wrapper's path, and starts as it would without the sidecar.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::config::absolute;
use super::write::write;

/// Name of the link to the original, in the folder of the wrapper. By it, and not by the original's own path, the wrapper
/// includes the original: LiteLLM 1.109.1 warns of an include that it finds in two folders.
const ORIGINAL_LINK: &str = "mcpauth-original.yaml";
/// Entries of the original's folder that all get a link. Of a larger one folders and Python modules do.
const MAX_ENTRIES: usize = 1000;
const FOLDER_MODE: u32 = 0o755;

/// Why there is no mirror; the configuration itself can be read.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error(
        "{}, the folder of LiteLLM's configuration, cannot be listed ({kind}); make it readable for the user that \
         mcp-auth's process runs as",
        folder.display()
    )]
    NotListed { folder: PathBuf, kind: io::ErrorKind },
    #[error(
        "{}, the folder of LiteLLM's configuration, has more than {MAX_ENTRIES} folders and Python modules; give the \
         configuration a folder of its own",
        folder.display()
    )]
    TooLarge { folder: PathBuf },
    #[error(transparent)]
    NotWritten(#[from] io::Error),
}

impl MirrorError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotListed { .. } => "ConfigUnreadable",
            Self::TooLarge { .. } => "ConfigTooLarge",
            Self::NotWritten(_) => "OverlayNotWritable",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Mirror {
    root: PathBuf,
    /// LiteLLM's own configuration, an absolute path.
    original: PathBuf,
    mount_points: Vec<OsString>,
}

/// What is to stand at a path of the mirror.
#[derive(Debug, Eq, PartialEq)]
enum Entry {
    Folder,
    Link { target: PathBuf },
    Wrapper { text: String },
}

impl Mirror {
    /// `root` is a path in a folder that only this process writes. `mount_points`: names in the original's folder of what
    /// LiteLLM finds there and this process does not.
    pub fn new(root: &Path, original: &Path, mount_points: Vec<OsString>) -> Self {
        Self {
            root: root.to_owned(),
            original: absolute(original),
            mount_points,
        }
    }

    /// What LiteLLM is given as its configuration.
    pub fn wrapper(&self) -> PathBuf {
        self.root.join(below_root(&self.original))
    }

    /// Brings the mirror up to date. Entries are replaced one by one; those that stay are never missing.
    ///
    /// `include_candidates` are those of [`Config`](super::config::Config).
    pub fn update(&self, include_candidates: &[PathBuf], overlay: &Path) -> Result<(), MirrorError> {
        let entries = self.entries(include_candidates, overlay)?;
        let folder = self.folder();
        make_folder(&folder)?;
        for (path, entry) in &entries {
            let path = folder.join(path);
            match entry {
                Entry::Folder => make_folder(&path)?,
                Entry::Link { target } => link(&path, target)?,
                Entry::Wrapper { text } => {
                    write(&path, text)?;
                }
            }
        }
        let folders = entries.iter().filter(|(_, entry)| **entry == Entry::Folder);
        for (parent, _) in folders.chain([(&PathBuf::new(), &Entry::Folder)]) {
            for found in fs::read_dir(folder.join(parent))? {
                let name = found?.file_name();
                if !entries.contains_key(&parent.join(&name)) {
                    remove(&folder.join(parent).join(name))?;
                }
            }
        }
        link(&self.root, Path::new(folder.file_name().unwrap_or_default()))?;
        Ok(())
    }

    /// Has LiteLLM read its own configuration at the wrapper's path.
    pub fn bypass(&self) -> io::Result<()> {
        link(&self.root, Path::new("/"))
    }

    /// Where the entries are while the root leads to them.
    fn folder(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.root.file_name().unwrap_or_default());
        self.root.with_file_name(name)
    }

    /// By path below the root, parents first.
    fn entries(
        &self,
        include_candidates: &[PathBuf],
        overlay: &Path,
    ) -> Result<BTreeMap<PathBuf, Entry>, MirrorError> {
        let original = below_root(&self.original);
        let mut entries: BTreeMap<PathBuf, Entry> = original
            .ancestors()
            .skip(1)
            .filter(|folder| !folder.as_os_str().is_empty())
            .map(|folder| (folder.to_owned(), Entry::Folder))
            .collect();
        let folder = self.original.parent().unwrap_or(Path::new("/"));
        for name in listed(folder)?.iter().chain(&self.mount_points) {
            let target = folder.join(name);
            entries
                .entry(below_root(&target).to_owned())
                .or_insert(Entry::Link { target });
        }
        let original_link = original.with_file_name(ORIGINAL_LINK);
        let included_original = self.root.join(&original_link);
        let include = [&included_original, overlay].map(Path::to_string_lossy);
        let text = format!("include: {}\n", serde_json::json!(include));
        entries.insert(original.to_owned(), Entry::Wrapper { text });
        let target = self.original.clone();
        entries.insert(original_link, Entry::Link { target });
        for candidate in include_candidates {
            let candidate = below_root(candidate);
            let paths: Vec<&Path> = candidate.ancestors().collect();
            // The highest folder that the mirror does not have becomes a link, and leads to all that is below.
            let missing = paths
                .into_iter()
                .rev()
                .skip(1)
                .find(|path| entries.get(*path) != Some(&Entry::Folder));
            if let Some(path) = missing {
                let target = Path::new("/").join(path);
                entries.entry(path.to_owned()).or_insert(Entry::Link { target });
            }
        }
        Ok(entries)
    }
}

/// Names in the folder of the original. Not only of what includes name: modules lie there, and files that they read.
fn listed(folder: &Path) -> Result<Vec<OsString>, MirrorError> {
    let not_listed = |error: io::Error| MirrorError::NotListed {
        folder: folder.to_owned(),
        kind: error.kind(),
    };
    let mut names = Vec::new();
    let mut modules = Vec::new();
    for entry in fs::read_dir(folder).map_err(not_listed)? {
        let entry = entry.map_err(not_listed)?;
        let name = entry.file_name();
        let is_module = Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "py");
        if is_module || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            modules.push(name.clone());
        }
        if names.len() <= MAX_ENTRIES {
            names.push(name);
        }
        if modules.len() > MAX_ENTRIES {
            return Err(MirrorError::TooLarge {
                folder: folder.to_owned(),
            });
        }
    }
    Ok(match names.len() <= MAX_ENTRIES {
        true => names,
        false => modules,
    })
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A folder that LiteLLM can read, whoever it runs as.
fn make_folder(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path);
    if !found.as_ref().is_ok_and(|metadata| metadata.is_dir()) {
        if found.is_ok() {
            remove(path)?;
        }
        DirBuilder::new().mode(FOLDER_MODE).create(path)?;
    }
    // Whatever the umask says.
    fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

/// A symbolic link, which takes the place of another one in one step.
fn link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        fs::remove_dir_all(path)?;
    }
    let temporary = path.with_file_name(".mcpauth-link");
    if fs::symlink_metadata(&temporary).is_ok() {
        remove(&temporary)?;
    }
    symlink(target, &temporary)?;
    fs::rename(&temporary, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::control::litellm_config::config;
    use crate::control::litellm_config::node::Budget;

    struct Scene {
        folder: TempDir,
        mirror: Mirror,
    }

    /// `/.../app/config.yaml` includes this, and the files lie beside it in folders.
    fn scene(config: &str, files: &[(&str, &str)]) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("app/config.yaml");
        let mirror = Mirror::new(&folder.path().join("ours/mirror"), &original, vec!["keys".into()]);
        fs::create_dir(folder.path().join("ours")).unwrap();
        let scene = Scene { folder, mirror };
        for (name, text) in files.iter().chain([&("app/config.yaml", config)]) {
            scene.write(name, text);
        }
        scene.update().unwrap();
        scene
    }

    impl Scene {
        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn update(&self) -> Result<(), MirrorError> {
            let config = config::read(&self.path("app/config.yaml"), &mut Budget::default()).unwrap();
            self.mirror
                .update(&config.include_candidates, &self.path("ours/overlay.yaml"))
        }

        /// The file that LiteLLM 1.80.17 finds, which looks beside the root file and follows links before `..`.
        fn found(&self, include: &str) -> Option<PathBuf> {
            fs::canonicalize(self.mirror.wrapper().parent().unwrap().join(include)).ok()
        }

        fn wrapper(&self) -> String {
            fs::read_to_string(self.mirror.wrapper()).unwrap()
        }
    }

    #[test]
    fn an_include_leads_from_beside_the_wrapper_to_where_it_would_from_beside_the_original() {
        let scene = scene(
            "include: [models.yaml, parts/a.yaml, parts/../models.yaml, ../shared/b.yaml]",
            &[
                ("app/models.yaml", "{}"),
                ("app/parts/a.yaml", "include: [c.yaml, ../app/d.yaml]"),
                ("app/c.yaml", "{}"),
                ("app/d.yaml", "{}"),
                ("app/parts/c.yaml", "{}"),
                ("shared/b.yaml", "include: [../other/e.yaml]"),
                ("other/e.yaml", "{}"),
                ("app/hooks/audit.py", ""),
            ],
        );
        for (include, file) in [
            ("models.yaml", "app/models.yaml"),
            ("parts/a.yaml", "app/parts/a.yaml"),
            ("parts/../models.yaml", "app/models.yaml"),
            ("../shared/b.yaml", "shared/b.yaml"),
            ("c.yaml", "app/c.yaml"),
            ("parts/c.yaml", "app/parts/c.yaml"),
            ("../app/d.yaml", "app/d.yaml"),
            ("../other/e.yaml", "other/e.yaml"),
            ("hooks/audit.py", "app/hooks/audit.py"),
            (ORIGINAL_LINK, "app/config.yaml"),
        ] {
            let expected = fs::canonicalize(scene.path(file)).unwrap();
            assert_eq!(scene.found(include), Some(expected), "{include}");
        }
        assert_eq!(scene.found("b.yaml"), None);
        let link = scene.mirror.wrapper().with_file_name(ORIGINAL_LINK);
        let expected = serde_json::json!([link, scene.path("ours/overlay.yaml")]);
        assert_eq!(scene.wrapper(), format!("include: {expected}\n"));
    }

    #[test]
    fn a_mount_that_only_litellm_has_is_led_to_as_well() {
        let scene = scene("{}", &[]);
        let keys = scene.mirror.wrapper().with_file_name("keys");
        assert_eq!(fs::read_link(keys).unwrap(), scene.path("app/keys"));
    }

    #[test]
    fn what_comes_and_goes_beside_the_original_comes_and_goes_in_the_mirror() {
        let scene = scene("{}", &[("app/old.yaml", "{}"), ("shared/b.yaml", "{}")]);
        fs::remove_file(scene.path("app/old.yaml")).unwrap();
        scene.write("app/new.yaml", "{}");
        scene.write("app/config.yaml", "include: [new.yaml, ../shared/b.yaml]");
        scene.update().unwrap();
        assert!(scene.found("new.yaml").is_some() && scene.found("../shared/b.yaml").is_some());
        let old = scene.mirror.wrapper().with_file_name("old.yaml");
        assert!(fs::symlink_metadata(old).is_err());
        scene.write("app/config.yaml", "{}");
        scene.update().unwrap();
        assert_eq!(scene.found("../shared/b.yaml"), None);
    }

    #[test]
    fn where_the_mirror_is_passed_by_litellm_reads_its_own_file_at_the_same_path() {
        let scene = scene("model_list: []", &[("app/models.yaml", "{}")]);
        assert!(scene.wrapper().starts_with("include: "));
        scene.mirror.bypass().unwrap();
        assert_eq!(scene.wrapper(), "model_list: []");
        assert_eq!(
            scene.found("models.yaml"),
            fs::canonicalize(scene.path("app/models.yaml")).ok()
        );
        scene.update().unwrap();
        assert!(scene.wrapper().starts_with("include: "));
    }

    #[test]
    fn of_a_folder_of_many_files_folders_and_modules_have_links() {
        let scene = scene("{}", &[("app/hooks.py", ""), ("app/parts/a.yaml", "{}")]);
        for number in 0..MAX_ENTRIES {
            scene.write(&format!("app/data-{number}"), "");
        }
        scene.write("app/config.yaml", "include: [data-1]");
        scene.write("app/data-1", "{}");
        scene.update().unwrap();
        for found in ["hooks.py", "parts/a.yaml", "data-1"] {
            assert!(scene.found(found).is_some(), "{found}");
        }
        assert_eq!(scene.found("data-2"), None);
        for number in 0..MAX_ENTRIES {
            scene.write(&format!("app/module_{number}.py"), "");
        }
        assert_eq!(scene.update().unwrap_err().reason(), "ConfigTooLarge");
    }

    #[test]
    fn folders_and_files_can_be_read_by_any_user() {
        let scene = scene("{}", &[]);
        for path in scene.mirror.wrapper().ancestors().take(3) {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o444, 0o444, "{}", path.display());
        }
    }
}
