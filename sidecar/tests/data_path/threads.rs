//! The sidecar's threads, at their end.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc;
use std::thread;

use mcp_auth_sidecar::server::Workers;

use super::TEST_TIMEOUT;

/// Waits for the end of workers that were stopped, and says what all threads are at if that does not come.
pub fn join(workers: Workers) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        workers.join();
        ended.send(())
    });
    if end.recv_timeout(TEST_TIMEOUT).is_ok() {
        return;
    }
    let message = format!(
        "the sidecar's workers have not ended within {TEST_TIMEOUT:?}; threads of this process:\n{}",
        states()
    );
    match thread::panicking() {
        // A second panic would end the process before the first is reported.
        true => drop(writeln!(std::io::stderr(), "{message}")),
        false => panic!("{message}"),
    }
}

/// Name, state, system call and place in the kernel of each thread, as far as the kernel tells.
fn states() -> String {
    let mut states = String::new();
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|line| line.starts_with("State:"));
        let (name, call, place) = (read("comm"), read("syscall"), read("wchan"));
        let state = state.unwrap_or_default();
        let _ = writeln!(states, "{}: {state}, {}, {place}", name.trim(), call.trim());
    }
    states
}
