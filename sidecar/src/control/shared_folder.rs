//! Shared folder: the overlay's place in the memory that the containers of a pod share, `/dev/shm`. All of them may write there, so
//! a folder that was there before is used only if it is this process's user's; and none but this user and root can list what is
//! in the folder above ours, whose name LiteLLM alone is told. LiteLLM may be any user, and reads it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use tracing::error;

/// To go through, and not to list.
const PARENT_MODE: u32 = 0o711;
const MODE: u32 = 0o755;
const RETRY: Duration = Duration::from_secs(1);
const WAY_OUT: &str = "Take out of the pod what makes it or keeps it from being made, or set the pod's annotation \
                       mcpauth.dev/shared-memory to \"false\", so that a volume serves in place of shared memory";

#[derive(Debug, thiserror::Error)]
pub enum SharedFolderError {
    #[error(
        "{} belongs to user {owner}, so that something else in the pod has made it: nothing is written there. {}",
        path.display(),
        WAY_OUT
    )]
    OfAnotherUser { path: PathBuf, owner: u32 },
    #[error(
        "{} is no folder, so that something else in the pod has made it: nothing is written there. {}",
        .0.display(),
        WAY_OUT
    )]
    NoFolder(PathBuf),
    #[error("{} cannot be made ({kind}). {}", path.display(), WAY_OUT)]
    NotMade { path: PathBuf, kind: io::ErrorKind },
}

/// Makes the folder and the one that it is in. What an earlier process of the sidecar has left in it stays.
pub fn make(path: &Path) -> Result<(), SharedFolderError> {
    if let Some(parent) = path.parent() {
        make_own(parent, PARENT_MODE)?;
    }
    make_own(path, MODE)
}

/// The same, again and again until it succeeds: LiteLLM is not to start before. `tell` is given each new reason why it does
/// not.
pub async fn made(path: &Path, tell: impl Fn(Problem)) {
    let mut last_told = None;
    loop {
        let Err(error) = make(path) else { return };
        let text = error.to_string();
        if last_told.as_ref() != Some(&text) {
            error!("{text}");
            tell(Problem::new(
                "SharedFolderNotMade",
                format!("LiteLLM's start waits: {text}"),
            ));
            last_told = Some(text);
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn make_own(path: &Path, mode: u32) -> Result<(), SharedFolderError> {
    let not_made = |error: io::Error| SharedFolderError::NotMade {
        path: path.to_owned(),
        kind: error.kind(),
    };
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(not_made(error)),
        _ => {}
    }
    // Not that of what a link leads to.
    let found = fs::symlink_metadata(path).map_err(not_made)?;
    if !found.is_dir() {
        return Err(SharedFolderError::NoFolder(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(SharedFolderError::OfAnotherUser {
            path: path.to_owned(),
            owner: found.uid(),
        });
    }
    // Whatever the umask says.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(not_made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn litellm_can_read_what_is_in_the_folder_and_nobody_else_can_find_it() {
        let memory = tempfile::tempdir().unwrap();
        let folder = memory.path().join("mcpauth/0123");
        make(&folder).unwrap();
        assert_eq!((mode(folder.parent().unwrap()), mode(&folder)), (0o711, 0o755));
        fs::write(folder.join("overlay.yaml"), "{}").unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        make(&folder).unwrap();
        assert_eq!(mode(&folder), 0o755, "another mode is put right");
        assert!(
            folder.join("overlay.yaml").exists(),
            "a restart of the sidecar loses nothing"
        );
    }

    #[test]
    fn a_folder_that_something_else_has_made_is_not_written_into() {
        let memory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let folder = memory.path().join("mcpauth/0123");
        let parent = folder.parent().unwrap();
        symlink(elsewhere.path(), parent).unwrap();
        assert!(matches!(make(&folder), Err(SharedFolderError::NoFolder(_))));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        fs::remove_file(parent).unwrap();
        fs::create_dir(parent).unwrap();
        // Only root can give a folder to others.
        if rustix::process::geteuid().is_root() {
            chown(parent, Some(12345), None).unwrap();
            let error = make(&folder).unwrap_err();
            assert!(error.to_string().contains("belongs to user 12345"), "{error}");
            assert_eq!(fs::read_dir(parent).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let memory = tempfile::tempdir().unwrap();
        fs::write(memory.path().join("file"), "").unwrap();
        let error = make(&memory.path().join("file/mcpauth/0123")).unwrap_err();
        assert!(
            error.to_string().contains("file/mcpauth cannot be made"),
            "{error}"
        );
    }
}
