//! Whether LiteLLM is unmodified: the files of the package that the running LiteLLM has imported, against the
//! hashes in its wheel's RECORD. The very interpreter that runs LiteLLM says where they are.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, getpid};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::report::Finding;
use crate::processes::descendants;
use crate::readiness::{OLDEST, is_too_old};

const POLL: Duration = Duration::from_millis(100);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Asked of the interpreter. Without the distribution it fails.
const QUESTION: &str = include_str!("package.py");
/// The package's folder below the root.
const PACKAGE: &str = "litellm/";
/// How many differing files are named.
const MAX_NAMED: usize = 3;

/// What the interpreter answers.
#[derive(Debug, Deserialize)]
pub struct Package {
    pub version: String,
    root: PathBuf,
    record: Option<String>,
    module: Option<PathBuf>,
    /// Files that Python runs at its start and that speak of litellm, by which it may be patched.
    #[serde(default)]
    hooks: Vec<PathBuf>,
}

/// Waits for a Python with LiteLLM below this process, and asks it.
pub async fn find() -> Package {
    let mut asked = BTreeSet::new();
    loop {
        for pid in descendants(getpid()) {
            // A process becomes another program by exec, so that its words count too.
            let Some(interpreter) = Interpreter::of(pid) else {
                continue;
            };
            if asked.insert((pid.as_raw_nonzero(), interpreter.words.clone()))
                && let Some(package) = interpreter.ask().await
            {
                return package;
            }
        }
        sleep(POLL).await;
    }
}

/// A Python that runs.
struct Interpreter {
    words: Vec<OsString>,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Interpreter {
    fn of(pid: Pid) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let words: Vec<OsString> = nul_separated(&fs::read(process.join("cmdline")).ok()?);
        let program = Path::new(words.first()?).file_name()?.to_str()?;
        if !program.starts_with("python") && !program.starts_with("pypy") {
            return None;
        }
        let environment = nul_separated(&fs::read(process.join("environ")).ok()?);
        let pair = |text: OsString| {
            let bytes = text.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=')?;
            let part = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
            Some((part(&bytes[..at]), part(&bytes[at + 1..])))
        };
        Some(Self {
            words,
            folder: fs::read_link(process.join("cwd")).ok()?,
            environment: environment.into_iter().filter_map(pair).collect(),
        })
    }

    async fn ask(&self) -> Option<Package> {
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        let program = program(
            self.words.first()?,
            &self.folder,
            path.map(|(_, path)| path.as_os_str()),
        )?;
        let output = Command::new(program)
            .args(["-c", QUESTION])
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(ANSWER_TIMEOUT, output).await.ok()?.ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }
}

fn nul_separated(bytes: &[u8]) -> Vec<OsString> {
    let mut parts: Vec<OsString> = bytes
        .split(|byte| *byte == 0)
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    parts.pop();
    parts
}

/// The program's file, found as the process found it.
fn program(word: &OsStr, folder: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    if word.as_bytes().contains(&b'/') {
        return Some(folder.join(word));
    }
    let mut candidates = std::env::split_paths(path?).map(|in_path| folder.join(in_path).join(word));
    candidates.find(|candidate| candidate.is_file())
}

impl Package {
    /// Compares all files. It reads some thousands of them.
    pub fn compare(&self) -> Finding {
        let Self { version, root, .. } = self;
        if is_too_old(version) {
            return Err(format!(
                "this is LiteLLM {version}, and mcp-auth needs {OLDEST} or newer: install that"
            ));
        }
        let imported = self.module.as_deref().and_then(Path::parent).unwrap_or(root);
        let reinstall = "install it anew: pip install --force-reinstall --no-deps litellm==";
        if fs::canonicalize(imported).ok() != fs::canonicalize(root.join(PACKAGE)).ok() {
            return Err(format!(
                "Python imports litellm from {}, which no wheel has brought (a source tree, or a folder in PYTHONPATH): \
                 {reinstall}{version}",
                imported.display()
            ));
        }
        let files = self.record.as_deref().map(recorded).unwrap_or_default();
        if files.is_empty() {
            return Err(format!(
                "the installed package has no RECORD of its files' hashes: {reinstall}{version}"
            ));
        }
        let changed = files
            .iter()
            .filter(|(path, hash)| {
                fs::read(root.join(path)).ok().map(|bytes| digest(&bytes)) != Some((*hash).to_owned())
            })
            .map(|(path, _)| (*path).to_owned());
        let mut differing: Vec<String> = changed.collect();
        let known: BTreeSet<&str> = files.iter().map(|(path, _)| *path).collect();
        differing.extend(
            modules(&root.join(PACKAGE), PACKAGE)
                .into_iter()
                .filter(|path| !known.contains(path.as_str())),
        );
        if let (true, Some(hook)) = (differing.is_empty(), self.hooks.first()) {
            return Err(format!(
                "its files are those of its wheel, but Python runs {} at each start, which speaks of litellm and may patch \
                 it: uninstall what brought that, or remove it",
                hook.display()
            ));
        }
        if differing.is_empty() {
            return Ok(format!("{version}, {} files as in its wheel", files.len()));
        }
        let named = differing
            .iter()
            .take(MAX_NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        Err(format!(
            "{} files of LiteLLM {version} are not those of its wheel, such as {named}: {reinstall}{version}",
            differing.len()
        ))
    }
}

/// Path and hash of each file of the package.
fn recorded(record: &str) -> Vec<(&str, &str)> {
    record.lines().filter_map(entry).collect()
}

/// A line is `PATH,sha256=HASH,SIZE`.
fn entry(line: &str) -> Option<(&str, &str)> {
    let mut parts = line.trim_end().rsplitn(3, ',');
    let (_, hash, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (path, hash) = (path.trim_matches('"'), hash.strip_prefix("sha256=")?);
    path.starts_with(PACKAGE).then_some((path, hash))
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

/// Every module below the folder, in Python or compiled from C, by its path as in RECORD.
fn modules(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(modules(&entry.path(), &format!("{path}/"))),
            Ok(_) if name.ends_with(".py") || name.ends_with(".so") => found.push(path),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package of two files, as pip installs it.
    fn package(root: &Path) -> Package {
        fs::create_dir_all(root.join("litellm/proxy")).unwrap();
        let mut record = String::new();
        for (path, text) in [("litellm/__init__.py", ""), ("litellm/proxy/server.py", "run()")] {
            fs::write(root.join(path), text).unwrap();
            record += &format!("{path},sha256={},{}\n", digest(text.as_bytes()), text.len());
        }
        record +=
            "litellm/__pycache__/x.pyc,,\nlitellm-1.110.2.dist-info/RECORD,,\n../bin/litellm,sha256=x,1\n";
        Package {
            version: "1.110.2".into(),
            root: root.to_owned(),
            record: Some(record),
            module: Some(root.join("litellm/__init__.py")),
            hooks: Vec::new(),
        }
    }

    #[test]
    fn every_change_of_the_package_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let good = package(root);
        assert_eq!(good.compare().unwrap(), "1.110.2, 2 files as in its wheel");

        fs::write(root.join("litellm/proxy/server.py"), "patched()").unwrap();
        let message = good.compare().unwrap_err();
        assert!(
            message.starts_with("1 files of LiteLLM 1.110.2 are not"),
            "{message}"
        );
        assert!(
            message.contains("litellm/proxy/server.py: install it anew"),
            "{message}"
        );

        let good = package(root);
        fs::write(root.join("litellm/patch.py"), "").unwrap();
        assert!(good.compare().unwrap_err().contains("such as litellm/patch.py"));
        fs::remove_file(root.join("litellm/patch.py")).unwrap();

        fs::write(root.join("litellm/utils.cpython-311.so"), "").unwrap();
        assert!(good.compare().unwrap_err().contains("such as litellm/utils."));
        fs::remove_file(root.join("litellm/utils.cpython-311.so")).unwrap();

        fs::remove_file(root.join("litellm/__init__.py")).unwrap();
        assert!(
            good.compare()
                .unwrap_err()
                .contains("such as litellm/__init__.py")
        );
    }

    #[test]
    fn a_package_that_cannot_be_compared_is_no_unmodified_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut editable = package(folder.path());
        editable.record = Some("litellm-1.110.2.dist-info/RECORD,,\n".into());
        assert!(editable.compare().unwrap_err().contains("has no RECORD"));

        let mut shadowed = package(folder.path());
        let elsewhere = tempfile::tempdir().unwrap();
        shadowed.module = Some(elsewhere.path().join("litellm/__init__.py"));
        assert!(
            shadowed
                .compare()
                .unwrap_err()
                .contains("Python imports litellm from")
        );

        let mut old = package(folder.path());
        old.version = "1.77.0".into();
        assert!(old.compare().unwrap_err().contains("needs 1.80.17 or newer"));
    }
}
