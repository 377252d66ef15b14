//! Where lines go: standard output, a file that is appended to, or an OpenTelemetry collector. A file that was moved away
//! or removed, as by logrotate, is opened anew under its name.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Between two looks whether the file is still there.
const ROTATION_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// POSIX's `PIPE_BUF` on Linux. Other programs may write to the same standard output, as LiteLLM does on one machine.
const PIPE_BUF: usize = 4096;

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    Stdout,
    File(PathBuf),
    /// As log records, by the exporter of the same program.
    Otlp,
}

impl FromStr for Output {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "stdout" | "-" => Self::Stdout,
            "otlp" => Self::Otlp,
            path => Self::File(path.into()),
        })
    }
}

impl Output {
    /// Whether it can be written to, for whoever wants to know before the first line. It makes the file.
    pub fn check(&self) -> io::Result<()> {
        match self {
            // To open a pipe means to wait for its reader, which is for the thread that writes.
            Self::File(path) if std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo()) => {
                Ok(())
            }
            Self::File(path) => open(path).map(drop),
            Self::Stdout | Self::Otlp => Ok(()),
        }
    }
}

/// Writes lines, and knows which of them were written.
pub struct LineWriter {
    /// `None`: standard output.
    path: Option<PathBuf>,
    /// `None` until the first line, and after an error.
    file: Option<File>,
    checked: Option<Instant>,
    /// The last write ended in the middle of a line.
    is_cut: bool,
}

impl LineWriter {
    /// To standard output if there is no path.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            file: None,
            checked: None,
            is_cut: false,
        }
    }

    /// Writes `lines`, each of which ends in a line break. With an error comes how many of them were not written
    /// to their end.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), (io::Error, usize)> {
        let mut file = match self.file() {
            Ok(file) => file,
            Err(error) => return Err((error, line_breaks(lines))),
        };
        let mut written = 0;
        let mut result = Ok(());
        if self.is_cut {
            // What is left of a line stays one line of its own, which is no JSON.
            result = file.write_all(b"\n");
            self.is_cut = result.is_err();
        }
        while result.is_ok() && written < lines.len() {
            let rest = &lines[written..];
            let next = match self.path {
                None => &rest[..whole_lines(rest)],
                Some(_) => rest,
            };
            match file.write(next) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        match result {
            Ok(()) => {
                self.file = Some(file);
                Ok(())
            }
            Err(error) => {
                self.is_cut |= written > 0 && lines[written - 1] != b'\n';
                Err((error, line_breaks(&lines[written..])))
            }
        }
    }

    /// The file to write to, which is given back by whoever has written.
    fn file(&mut self) -> io::Result<File> {
        match &self.path {
            None => match self.file.take() {
                Some(file) => Ok(file),
                // Without the buffer of `Stdout`, which would keep what could not be written.
                None => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            },
            Some(path) => {
                let is_due = self
                    .checked
                    .is_none_or(|checked| checked.elapsed() >= ROTATION_CHECK_INTERVAL);
                let kept = self.file.take();
                if is_due {
                    self.checked = Some(Instant::now());
                }
                match kept {
                    Some(file) if !is_due || is_same(&file, path) => Ok(file),
                    kept => {
                        let opened = open(path);
                        // A new file begins with a whole line.
                        if kept.is_some() && opened.is_ok() {
                            self.is_cut = false;
                        }
                        opened
                    }
                }
            }
        }
    }
}

/// Opens the file to append to it. One that is made is for its owner alone: lines name users.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

/// How many of the lines go into one write of a pipe that nothing else can come between: at most `PIPE_BUF` bytes. A
/// longer line is written alone.
fn whole_lines(lines: &[u8]) -> usize {
    if lines.len() <= PIPE_BUF {
        return lines.len();
    }
    let end = memchr::memrchr(b'\n', &lines[..PIPE_BUF]).or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines.len(), |end| end + 1)
}

fn line_breaks(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let mut writer = LineWriter::new(Some(path.clone()));
        writer.write(b"1\n2\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        writer.checked = None;
        writer.write(b"3\n").unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "lines name users");
        assert_eq!(std::fs::read_to_string(old).unwrap(), "1\n2\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "3\n");
    }

    #[test]
    fn a_folder_that_comes_later_is_written_to_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit");
        let mut writer = LineWriter::new(Some(path.clone()));
        assert_eq!(writer.write(b"1\n2\n").unwrap_err().1, 2);
        std::fs::create_dir(folder.path().join("logs")).unwrap();
        writer.write(b"3\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "3\n");
    }

    #[test]
    fn a_line_that_was_cut_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        std::fs::write(&path, "{\"half").unwrap();
        let mut writer = LineWriter::new(Some(path.clone()));
        writer.is_cut = true;
        writer.write(b"1\n").unwrap();
        writer.write(b"2\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"half\n1\n2\n");
    }

    #[test]
    fn what_shares_standard_output_comes_between_whole_lines_only() {
        let lines: Vec<u8> = (0..1000)
            .flat_map(|number| format!("{{\"line\":{number}}}\n").into_bytes())
            .collect();
        let long = [vec![b'x'; 2 * PIPE_BUF], b"\n".to_vec()].concat();
        let all = [&*lines, &*long, &*lines].concat();
        let (mut rest, mut writes) = (&*all, 0);
        while !rest.is_empty() {
            let length = whole_lines(rest);
            assert_eq!(rest[length - 1], b'\n');
            assert!(
                length <= PIPE_BUF || line_breaks(&rest[..length]) == 1,
                "{length}"
            );
            (rest, writes) = (&rest[length..], writes + 1);
        }
        assert!(writes < 20, "{writes} writes");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_says_how_many_lines_are_lost() {
        let mut writer = LineWriter::new(Some("/dev/full".into()));
        let (error, lost) = writer.write(b"1\n2\n3\n").unwrap_err();
        assert_eq!((error.kind(), lost), (io::ErrorKind::StorageFull, 3));
    }
}
