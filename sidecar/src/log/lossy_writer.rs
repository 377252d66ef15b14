//! Lossy log writer: hands lines to a thread that writes them, so that whoever reads the log never holds up a request.
//! A line for which there is no room is lost, and counted.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::DroppedLines;

/// Lines that wait to be written.
const CAPACITY: usize = 1_024;

/// Makes a writer for each line.
#[derive(Clone)]
pub struct LossyWriter {
    lines: SyncSender<Command>,
    dropped: DroppedLines,
}

enum Command {
    Line(Vec<u8>),
    /// Answered once all before it is written.
    Flush(SyncSender<()>),
}

/// One line, which is handed over when this is dropped: the formatter writes it in pieces.
pub struct Line {
    text: Vec<u8>,
    writer: LossyWriter,
}

impl LossyWriter {
    pub fn start(output: impl Write + Send + 'static, dropped: DroppedLines) -> io::Result<Self> {
        let (lines, received) = sync_channel(CAPACITY);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&received, output))?;
        Ok(Self { lines, dropped })
    }

    /// Waits until the lines so far are written, but no longer than this.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        let is_sent = self.lines.try_send(Command::Flush(done)).is_ok();
        is_sent && is_done.recv_timeout(within) != Err(RecvTimeoutError::Timeout)
    }
}

fn write(received: &Receiver<Command>, mut output: impl Write) {
    for command in received {
        match command {
            // Nobody can be told that the log cannot be written.
            Command::Line(line) => drop(output.write_all(&line)),
            Command::Flush(done) => {
                let _ = output.flush();
                let _ = done.try_send(());
            }
        }
    }
}

impl<'a> MakeWriter<'a> for LossyWriter {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            text: Vec::new(),
            writer: self.clone(),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = Command::Line(std::mem::take(&mut self.text));
        if let Err(TrySendError::Full(_)) = self.writer.lines.try_send(line) {
            self.writer.dropped.count_full();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An output that takes nothing until the test says so.
    struct Blocked(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error: it is let go for good.
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_takes_nothing_holds_up_nobody_and_what_is_lost_is_counted() {
        let (release, blocked) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let dropped = DroppedLines::default();
        let writer = LossyWriter::start(Blocked(blocked, written.clone()), dropped.clone()).unwrap();
        for number in 0..3 * CAPACITY {
            writeln!(writer.make_writer(), "{number}").unwrap();
        }
        let lost = dropped.full();
        assert!(lost >= 2 * CAPACITY as u64 - 1, "{lost}");
        assert!(!writer.flush(Duration::from_millis(1)));
        drop(release);
        while !writer.flush(Duration::from_secs(30)) {
            thread::yield_now();
        }
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count() as u64 + lost, 3 * CAPACITY as u64);
        assert!(written.starts_with("0\n1\n"), "lines stay whole and in order");
    }
}
