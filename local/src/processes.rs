//! The processes below one of ours: found in `/proc`, ended within a bounded time. Whoever ends them is their
//! subreaper, so that none escapes by the end of the process that started it.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper,
    set_dumpable_behavior, wait,
};

const POLL: Duration = Duration::from_millis(50);
/// What still starts others after SIGKILL to all is looked at this often.
const KILL_ROUNDS: u32 = 40;

/// From now on no other process of this user can read the environment and the memory of this one, which hold client
/// secrets and tokens, unless it has CAP_SYS_PTRACE. A program that this process becomes is not bound by it.
pub fn forbid_inspection() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// From now on processes below this one become its children when their own parent ends.
pub fn become_subreaper() -> rustix::io::Result<()> {
    set_child_subreaper(Some(getpid()))
}

/// All processes below this one, in no order.
pub fn descendants(of: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = processes().collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents
            .iter()
            .filter(|(child, its_parent)| *its_parent == parent && !found.contains(child));
        let children: Vec<Pid> = children.map(|(child, _)| *child).collect();
        found.extend(children);
        next += 1;
    }
    found.split_off(1)
}

/// Asks all processes below this one but `spared` to end, and kills those that have not within `grace`. Must
/// not be called while another thread waits for a child's status.
pub fn end_descendants(grace: Duration, spared: &[Pid]) {
    let others = || {
        reap();
        let mut found = descendants(getpid());
        found.retain(|process| !spared.contains(process));
        found
    };
    send(&others(), Signal::TERM);
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline {
        if others().is_empty() {
            return;
        }
        std::thread::sleep(POLL);
    }
    for _ in 0..KILL_ROUNDS {
        let left = others();
        if left.is_empty() {
            return;
        }
        send(&left, Signal::KILL);
        std::thread::sleep(POLL);
    }
}

/// Sends a signal to all processes below this one.
pub fn signal_descendants(signal: Signal) {
    send(&descendants(getpid()), signal);
}

fn send(processes: &[Pid], signal: Signal) {
    for process in processes {
        // One that has ended meanwhile is what is wanted.
        let _ = kill_process(*process, signal);
    }
}

/// Takes the status of every child that has ended, so that it does not stay in the table as a zombie.
fn reap() {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Each process with its parent.
fn processes() -> impl Iterator<Item = (Pid, Pid)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, parent(&stat)?))
    })
}

/// The fourth field of `/proc/PID/stat`. The second is the program's name in brackets, which may hold anything.
fn parent(stat: &str) -> Option<Pid> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    Pid::from_raw(after_name.split_ascii_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_whatever_the_program_is_called() {
        let pid = |number| Pid::from_raw(number);
        assert_eq!(parent("12 (python) S 7 12 12 0"), pid(7));
        assert_eq!(parent("12 (a) S 1 b) R 8 12 12 0"), pid(8));
        assert_eq!(parent("12 (init) S 0 0 0"), None);
        assert_eq!(parent(""), None);
    }
}
