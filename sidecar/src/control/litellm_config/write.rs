//! Puts the overlay where LiteLLM reads it. LiteLLM may read at any moment, so a file is replaced by a rename
//! and never seen half written, and LiteLLM may run as any user, so the mode is set whatever the umask says. Who else
//! reads the folder is up to who makes it: a volume of two containers, or a folder of the user's own.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;

/// Whether there was anything to write: a file with this content and mode is left alone.
pub fn write(path: &Path, text: &str) -> io::Result<bool> {
    write_with_mode(path, text, MODE)
}

/// The same with a file that only this user can read.
pub fn write_private(path: &Path, text: &str) -> io::Result<bool> {
    write_with_mode(path, text, PRIVATE_MODE)
}

fn write_with_mode(path: &Path, text: &str, mode: u32) -> io::Result<bool> {
    if is_in_place(path, text, mode) {
        return Ok(false);
    }
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&temporary, path)?;
    Ok(true)
}

fn is_in_place(path: &Path, text: &str, mode: u32) -> bool {
    let found = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    found.is_ok_and(|found| found == mode) && fs::read(path).is_ok_and(|content| content == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn replaces_the_file_and_leaves_an_equal_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.yaml");
        assert!(write(&path, "a: 1\n").unwrap());
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.mode() & 0o777, 0o644);
        assert!(!write(&path, "a: 1\n").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino());

        let reader = File::open(&path).unwrap();
        assert!(write(&path, "a: 2\n").unwrap());
        assert_eq!(
            io::read_to_string(reader).unwrap(),
            "a: 1\n",
            "who reads meanwhile reads the old file to its end"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "a: 2\n");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn another_mode_is_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.yaml");
        fs::write(&path, "a: 1\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(write(&path, "a: 1\n").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(write(Path::new("/does/not/exist/overlay.yaml"), "{}").is_err());
    }
}
