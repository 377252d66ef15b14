//! A memory cgroup for one process, of version 1 or 2, and what the kernel has counted in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// That of the chart.
pub const MEMORY_LIMIT: u64 = 256 << 20;
/// Set to `required`, a machine on which no cgroup can be made fails the tests, which are skipped there otherwise.
const SETTING: &str = "MCPAUTH_TEST_CGROUP";
const ROOT: &str = "/sys/fs/cgroup";
const OWN_CGROUPS: &str = "/proc/self/cgroup";

/// With [`MEMORY_LIMIT`], until this is dropped.
pub struct Cgroup {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// `None`, with a word why, where this machine has none to give.
    pub fn new(name: &str) -> Option<Self> {
        let own = fs::read_to_string(OWN_CGROUPS).unwrap_or_default();
        let cgroup = Self::under(Path::new(ROOT), &own, name);
        if cgroup.is_none() {
            let reason = "no memory cgroup can be made here (that takes root, and with version 2 the memory controller)";
            let is_required = std::env::var(SETTING).is_ok_and(|setting| setting == "required");
            assert!(!is_required, "{SETTING}=required: {reason}");
            super::say(&format!("skipped: {reason}"));
        }
        cgroup
    }

    /// `own` is what `/proc/self/cgroup` says.
    fn under(root: &Path, own: &str, name: &str) -> Option<Self> {
        let name = format!("mcp-auth-test-{}-{name}", std::process::id());
        let versions = [
            (Version::One, root.join("memory"), ":memory:"),
            (Version::Two, root.to_owned(), "0::"),
        ];
        versions.into_iter().find_map(|(version, root, separator)| {
            let own = own.lines().find_map(|line| Some(line.split_once(separator)?.1));
            // In version 2 a cgroup with processes of its own limits none below it: those around it do.
            let parents = Path::new(own?.trim_start_matches('/')).ancestors();
            let mut paths = parents.map(|parent| root.join(parent).join(&name));
            paths.find_map(|path| Self::make(path, version))
        })
    }

    fn make(path: PathBuf, version: Version) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        if fs::write(path.join(limit), MEMORY_LIMIT.to_string()).is_err() {
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Self { path, version })
    }

    /// Whoever writes a process into it moves the process here.
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The most that was held at a time, in bytes.
    pub fn peak(&self) -> u64 {
        match self.version {
            Version::One => number(&self.read("memory.max_usage_in_bytes")),
            Version::Two => number(&self.read("memory.peak")),
        }
    }

    /// How often the limit was met.
    pub fn times_at_limit(&self) -> u64 {
        match self.version {
            Version::One => number(&self.read("memory.failcnt")),
            Version::Two => {
                let events = self.read("memory.events");
                let met = events.lines().find_map(|line| line.strip_prefix("max "));
                number(met.unwrap())
            }
        }
    }

    fn read(&self, file: &str) -> String {
        let text = fs::read_to_string(self.path.join(file));
        // `memory.peak` is there since Linux 5.19.
        text.unwrap_or_else(|error| panic!("{file} of the cgroup: {error}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel may take a moment to let go of a process that has ended.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap()
}

/// In a folder with the kernel's files.
#[test]
fn the_memory_of_a_cgroup_is_read_in_both_versions() {
    for (version, folder, own, files) in [
        (
            Version::One,
            "memory/pod",
            "5:cpu,cpuacct:/x\n4:memory:/pod\n0::/\n",
            [
                ("memory.limit_in_bytes", ""),
                ("memory.max_usage_in_bytes", "1000\n"),
                ("memory.failcnt", "7\n"),
            ],
        ),
        (
            Version::Two,
            "pod",
            "0::/pod\n",
            [
                ("memory.max", ""),
                ("memory.peak", "1000\n"),
                ("memory.events", "low 1\nhigh 2\nmax 7\noom 3\n"),
            ],
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(folder)).unwrap();
        let cgroup = Cgroup::under(root.path(), own, "files").unwrap();
        assert_eq!(cgroup.version, version);
        assert!(cgroup.path.starts_with(root.path().join(folder)));
        let [(limit, _), counted @ ..] = files;
        assert_eq!(number(&cgroup.read(limit)), MEMORY_LIMIT);
        for (file, text) in counted {
            fs::write(cgroup.path.join(file), text).unwrap();
        }
        assert_eq!((cgroup.peak(), cgroup.times_at_limit()), (1000, 7));
        // The kernel's files go with their folder.
        for (file, _) in files {
            fs::remove_file(cgroup.path.join(file)).unwrap();
        }
    }
}
