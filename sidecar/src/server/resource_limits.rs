//! Resource limits of this process: memory by its cgroup, of version 1 or 2, and open files by the kernel.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const OWN_CGROUPS: &str = "/proc/self/cgroup";
/// Version 1 states a number near this one where there is no limit.
const UNLIMITED: u64 = 1 << 60;

/// The smallest memory limit of the cgroup that this process is in and of those around it, in bytes. `None`
/// where there is none, or none can be read.
pub fn memory_limit() -> Option<u64> {
    let own = std::fs::read_to_string(OWN_CGROUPS).ok()?;
    smallest_memory_limit(Path::new(CGROUP_ROOT), &own)
}

/// Raises the limit of open files as far as the kernel lets this process, and returns what it is then. Container
/// runtimes often leave it at 1,024 and permit many times that.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// `own` is what `/proc/self/cgroup` says. A container sees its own cgroup as the root, and may yet be told the
/// path of the host, which is not there: so every path is tried upwards to the root.
fn smallest_memory_limit(root: &Path, own: &str) -> Option<u64> {
    let mut smallest = None::<u64>;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            some if some.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for cgroup in Path::new(path.trim_start_matches('/')).ancestors() {
            let stated = std::fs::read_to_string(root.join(cgroup).join(file));
            let limit = stated.ok().and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(limit) = limit.filter(|limit| *limit < UNLIMITED) {
                smallest = Some(smallest.map_or(limit, |smallest| smallest.min(limit)));
            }
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_with(files: &[(&str, &str)], own: &str) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        smallest_memory_limit(root.path(), own)
    }

    #[test]
    fn the_smallest_limit_around_the_process_counts_in_both_versions() {
        let second = [
            ("memory.max", "max\n"),
            ("pod/memory.max", "1000\n"),
            ("pod/own/memory.max", "500\n"),
        ];
        assert_eq!(limit_with(&second, "0::/pod/own\n"), Some(500));
        let first = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/pod/memory.limit_in_bytes", "1000\n"),
            ("memory/pod/own/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(
            limit_with(&first, "5:cpu,cpuacct:/x\n4:memory:/pod/own\n0::/\n"),
            Some(1000)
        );
    }

    #[test]
    fn a_container_that_is_told_the_hosts_path_finds_its_own_limit() {
        let own = [("memory/memory.limit_in_bytes", "268435456\n")];
        assert_eq!(
            limit_with(&own, "4:memory:/kubepods/pod1/abc\n"),
            Some(268_435_456)
        );
        let own = [("memory.max", "268435456\n")];
        assert_eq!(limit_with(&own, "0::/\n"), Some(268_435_456));
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(limit_with(&[("memory.max", "max\n")], "0::/\n"), None);
        assert_eq!(limit_with(&[], "0::/\nnonsense\n"), None);
    }
}
