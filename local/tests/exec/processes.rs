//! What becomes of processes: signals, exit codes, ends by force, and two `exec` side by side.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;

use rustix::process::{Signal, kill_process};

use crate::support::{Ground, is_alive, kill, message, pid, until};

#[test]
fn a_litellm_that_does_not_listen_where_it_was_moved_is_told() {
    let ground = Ground::new("{}");
    let mut child = ground
        .litellm_with(&["--start-timeout-seconds", "20"])
        .env("STAYS", "so")
        .spawn()
        .unwrap();
    let expected = "LiteLLM does not listen on 127.0.0.1:";
    until("it is told", || ground.log().contains(expected).then_some(()));
    kill(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(7), "{}", ground.log());
}

/// An option that changes nothing, with which the log goes into a file.
const LOGGED: &[&str] = &["--start-timeout-seconds", "120"];

#[test]
fn nothing_is_left_when_mcp_auth_is_killed() {
    let ground = Ground::new("{}");
    let mut child = ground.litellm_with(LOGGED).spawn().unwrap();
    let report = ground.report();
    child.kill().unwrap();
    child.wait().unwrap();
    let expected = "mcp-auth was ended, and LiteLLM is ended with it";
    until("it is told", || ground.log().contains(expected).then_some(()));
    ground.nothing_is_left(&report);
}

#[test]
fn nothing_is_left_when_the_supervisor_is_killed() {
    let ground = Ground::new("{}");
    let child = ground.litellm_with(LOGGED).spawn().unwrap();
    let report = ground.report();
    kill_process(pid(&report, "parent"), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{}", message(&output));
    let expected = "the process of mcp-auth that looks after LiteLLM was ended by a signal";
    assert!(ground.log().contains(expected), "{}", ground.log());
    ground.nothing_is_left(&report);
}

/// The kernel is asked to end LiteLLM when its parent does. Of what LiteLLM started, and of the folder, no process is left that could tell.
#[test]
fn litellm_ends_when_both_are_killed() {
    let ground = Ground::new("{}");
    let mut child = ground.litellm().spawn().unwrap();
    let report = ground.report();
    kill_process(pid(&report, "parent"), Signal::STOP).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    kill_process(pid(&report, "parent"), Signal::KILL).unwrap();
    until("LiteLLM has ended", || {
        (!is_alive(pid(&report, "pid"))).then_some(())
    });
    kill_process(pid(&report, "sleeper"), Signal::KILL).unwrap();
}

#[test]
fn the_end_of_litellm_by_sigkill_is_passed_on_as_shells_do() {
    let ground = Ground::new("{}");
    let child = ground.litellm().spawn().unwrap();
    let report = ground.report();
    kill_process(pid(&report, "pid"), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(137), None));
    ground.nothing_is_left(&report);
}

#[test]
fn two_side_by_side_disturb_each_other_only_where_they_want_the_same_port() {
    let (first, second) = (Ground::new("{}"), Ground::new("{}"));
    let children = [
        first.litellm().spawn().unwrap(),
        second.litellm().spawn().unwrap(),
    ];
    let reports = [first.report(), second.report()];
    assert_ne!(reports[0]["words"], reports[1]["words"]);
    until("the first listens", || {
        TcpStream::connect(("127.0.0.1", first.port)).ok()
    });
    let output = first.litellm().output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(
        message(&output).contains(&format!("127.0.0.1:{} cannot be listened on", first.port)),
        "{}",
        message(&output)
    );
    for child in children {
        kill(&child, Signal::INT);
        child.wait_with_output().unwrap();
    }
}

#[test]
fn a_litellm_that_ends_at_its_start_is_told_with_its_own_code() {
    let ground = Ground::new("{}");
    let output = ground.litellm().env("ENDS_WITH", "3").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", message(&output));
    let told = message(&output);
    let told: Vec<&str> = told.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(told.len(), 2, "that there is no server, and: {told:?}");
    assert!(
        told[1].contains("LiteLLM ended before it was ready: its own output says why"),
        "{told:?}"
    );
    let names = fs::read_dir(ground.folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("mcp-auth-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_home_that_cannot_be_written_to_keeps_nothing_from_starting() {
    let ground = Ground::new("{}");
    // Nothing can be written there, by root either.
    let child = ground.litellm().env("HOME", "/proc").spawn().unwrap();
    let report = ground.report();
    kill(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", message(&output));
    ground.nothing_is_left(&report);
}

#[test]
fn the_switch_runs_litellm_untouched() {
    let ground = Ground::new("{}");
    let port = ground.port.to_string();
    let mut command = ground.command(&["litellm", "--port", &port]);
    let child = command
        .env("LITELLM_MCP_AUTH_AUTO_PATCH", "false")
        .spawn()
        .unwrap();
    let report = ground.report();
    assert_eq!(
        report["pid"].as_u64(),
        Some(u64::from(child.id())),
        "it is the same process"
    );
    assert_eq!(report["words"], serde_json::json!(["--port", port]));
    assert!(report["environment"].get("CONFIG_FILE_PATH").is_none());
    kill_process(pid(&report, "sleeper"), Signal::KILL).unwrap();
    kill(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(7));
}
