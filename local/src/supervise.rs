//! The supervisor: a process between `mcp-auth exec` and LiteLLM. It starts the command, passes signals on that
//! it gets through its standard input, and ends with the command's exit code. When its standard input ends,
//! `mcp-auth exec` is gone, by SIGKILL too, and everything below is ended. So LiteLLM is never left behind:
//!
//! - `exec` is killed: the supervisor ends LiteLLM and all that it started.
//! - The supervisor is killed: `exec`, which is the next subreaper, does.
//! - Both are killed: LiteLLM gets SIGTERM from the kernel, by [`launch`].

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process_group,
    set_parent_process_death_signal, wait,
};

use crate::exit;
use crate::processes::{become_subreaper, end_descendants, signal_descendants};

/// How long LiteLLM may take to end after its parent has gone, and what it started after LiteLLM has.
pub const END_GRACE: Duration = Duration::from_secs(5);
/// Signals that are passed on, by their numbers: INT, TERM, HUP, QUIT, USR1, USR2.
pub const FORWARDED: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// Runs the command to its end and answers its exit code, or 128 and the signal that ended it.
pub fn supervise(command: &[OsString], cleanup: Option<PathBuf>) -> u8 {
    // Without it what LiteLLM starts could outlive it; LiteLLM itself is a child anyway.
    let _ = become_subreaper();
    let Ok(own_program) = std::env::current_exe() else {
        return exit::OS_ERROR;
    };
    let child = Command::new(own_program)
        .arg("launch")
        .arg(getpid().as_raw_nonzero().to_string())
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn();
    let child = match child
        .ok()
        .and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
    {
        Some(child) => child,
        None => return exit::OS_ERROR,
    };
    std::thread::spawn(move || follow_parent(child, cleanup));
    let code = wait_for(child);
    end_descendants(END_GRACE, &[]);
    code
}

/// Takes the place of the launcher by the command, which is to end when the supervisor, its parent, does.
pub fn launch(supervisor: i32, command: &[OsString]) -> u8 {
    // Best effort: where the kernel refuses, the supervisor still looks after it.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(supervisor) {
        return exit::OS_ERROR;
    }
    let Some((program, arguments)) = command.split_first() else {
        return exit::USAGE;
    };
    let error = Command::new(program).args(arguments).exec();
    exit::report(&exit::ExitError::from_start(program, &error))
}

/// Passes each signal on to the command's group, until the parent is gone.
fn follow_parent(child: Pid, cleanup: Option<PathBuf>) {
    let mut input = std::io::stdin().lock();
    let mut number = [0];
    while matches!(input.read(&mut number), Ok(1)) {
        let signal = FORWARDED
            .into_iter()
            .find(|signal| signal.as_raw() == i32::from(number[0]));
        if let Some(signal) = signal {
            // To the group, as a terminal does: a shell in between would keep it for itself.
            let _ = kill_process_group(child, signal);
        }
    }
    // Nobody else is left to say it.
    let _ = writeln!(
        std::io::stderr(),
        "mcp-auth was ended, and LiteLLM is ended with it"
    );
    if let Some(folder) = cleanup {
        let _ = std::fs::remove_dir_all(folder);
    }
    signal_descendants(Signal::TERM);
    std::thread::sleep(END_GRACE);
    // The main thread ends the process as soon as the command has, and ends what is left then.
    signal_descendants(Signal::KILL);
}

/// The exit code of this child. Others, whose parents have ended, are reaped on the way.
fn wait_for(child: Pid) -> u8 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return exit_code(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return exit::OS_ERROR,
        }
    }
}

/// As shells have it.
fn exit_code(status: WaitStatus) -> u8 {
    let by_signal = status.terminating_signal().map(|signal| signal + 128);
    let code = status.exit_status().or(by_signal);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::OS_ERROR)
}
