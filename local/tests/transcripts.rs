//! Transcripts of `mcp-auth exec` and `mcp-auth check`, where all is well and where it is not: `docs/one-machine-transcripts.md`
//! is what they print in a terminal, with a stand-in for LiteLLM. `MCPAUTH_TEST_WRITE_TRANSCRIPTS=1 cargo test --package
//! mcp-auth-local --test transcripts` writes it anew.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]
#![allow(dead_code, reason = "the set-up of other tests does more")]

#[path = "check/set_up.rs"]
mod set_up;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use set_up::SetUp;
use support::{copy_environment, pid, until};

const WRITE: &str = "MCPAUTH_TEST_WRITE_TRANSCRIPTS";
const INTRODUCTION: &str = "\
# Transcripts of mcp-auth exec and mcp-auth check

What [`mcp-auth exec`](one-machine.md) and [`mcp-auth check`](one-machine.md#check-a-set-up) print in a terminal. A test makes this
file and fails where it is not what they print; LiteLLM is a stand-in, which prints nothing itself and ends with 7. Times, ports and
folders are always the same ones here. Each set-up has one fault.

";
/// Runs a program in a terminal of its own, and ends with its exit code.
const TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
/// What is run, and how it is shown.
struct Run<'a> {
    title: &'a str,
    /// Variables, which stand before the command.
    variables: &'a [(&'a str, &'a str)],
    words: &'a [&'a str],
}

impl Run<'_> {
    fn shown(&self) -> String {
        let variables = self
            .variables
            .iter()
            .map(|(name, value)| format!("{name}={value} "));
        format!(
            "{}mcp-auth {}",
            variables.collect::<String>(),
            self.words.join(" ")
        )
    }

    /// In a terminal, with SECRET set. `ends`: LiteLLM runs until it is told to end.
    fn transcript(&self, set_up: &SetUp, ends: bool) -> String {
        let template = set_up.ground.program(&[]);
        let mut command = Command::new("python3");
        command
            .args(["-c", TERMINAL])
            .arg(template.get_program())
            .args(self.words);
        copy_environment(&template, &mut command);
        command
            .env("SECRET", "s3cret")
            .env("PYTHONPATH", set_up.path("packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOST", "127.0.0.1")
            .env("PORT", set_up.ground.port.to_string())
            .envs(self.variables.iter().copied())
            .current_dir(set_up.ground.folder.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(set_up.path("terminal")).unwrap())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        if ends {
            let report = set_up.ground.report();
            let printed = || fs::read_to_string(set_up.path("terminal")).unwrap_or_default();
            until("LiteLLM is ready", || {
                printed().contains("LiteLLM is ready").then_some(())
            });
            kill_process(pid(&report, "pid"), Signal::TERM).unwrap();
        }
        let code = child.wait().unwrap().code().unwrap();
        let printed = fs::read_to_string(set_up.path("terminal")).unwrap();
        assert!(!printed.contains("s3cret"), "{printed}");
        if set_up.path("report").exists() {
            set_up.ground.nothing_is_left(&set_up.ground.report());
            fs::remove_file(set_up.path("report")).unwrap();
        }
        let mut text = format!("### {}\n\n    $ {}\n", self.title, self.shown());
        // The sidecar's own probe tells it, sometimes before LiteLLM is ready, sometimes after.
        let is_of_any_moment = |line: &&str| line.ends_with("controller: LiteLLM listens");
        let printed = normalized(&printed, set_up);
        for line in printed
            .lines()
            .filter(|line| !is_of_any_moment(line))
            .map(audit_line)
        {
            text.push_str(format!("    {line}").trim_end());
            text.push('\n');
        }
        if code != 0 {
            text.push_str(&format!("    $ echo $?\n    {code}\n"));
        }
        text.push('\n');
        text
    }
}

/// Without colours, and with the same times, ports and folders in each run.
fn normalized(printed: &str, set_up: &SetUp) -> String {
    let text = without_escapes(&printed.replace('\r', ""));
    let text = text.replace(set_up.ground.folder.path().to_str().unwrap(), "/home/ada");
    let text = text.replace(&format!(":{}", set_up.ground.port), ":4000");
    let [authorization_server, mcp_server] = set_up.servers;
    let text = text
        .replace(&authorization_server.to_string(), "auth.company.com")
        .replace(&mcp_server.to_string(), "tools.company.com");
    let words = text.split_inclusive([' ', '\n']).map(|word| {
        let (word, end) = word.split_at(word.trim_end_matches([' ', '\n', ',']).len());
        let word = match word {
            time if time.len() > 19 && time.ends_with('Z') && time.as_bytes()[10] == b'T' => {
                "2026-11-29T12:00:00Z"
            }
            word => word,
        };
        format!("{}{end}", without_random(word))
    });
    words.collect()
}

/// What differs between two audit lines of the same call.
fn audit_line(line: &str) -> String {
    let values = [
        ("time", "\"2026-11-29T12:00:00.000000Z\""),
        ("request", "\"cbff5b6747c18c82\""),
        ("durationMs", "14.645"),
        ("serverMs", "12.045"),
    ];
    let is_audit_line = line.starts_with("{\"schema\":");
    let values = values.into_iter().filter(|_| is_audit_line);
    values.fold(line.to_owned(), |line, (key, value)| {
        let key = format!("\"{key}\":");
        let Some((before, rest)) = line.split_once(&key) else {
            return line;
        };
        let end = rest.find(',').unwrap_or(rest.len());
        format!("{before}{key}{value}{}", &rest[end..])
    })
}

/// The name of a folder, and a port that is chosen anew.
fn without_random(word: &str) -> String {
    if let Some((before, after)) = word.split_once("/mcp-auth-") {
        let rest = after.find(['/', '"']).map_or("", |at| &after[at..]);
        return format!("{before}/mcp-auth-XXXXXX{rest}");
    }
    match word.rsplit_once("127.0.0.1:") {
        Some((before, port)) if !port.starts_with("4000") => format!("{before}127.0.0.1:16480"),
        _ => word.to_owned(),
    }
}

fn without_escapes(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

const EXEC: [&str; 5] = ["exec", "--", "litellm", "--config", "config.yaml"];
const CHECK: [&str; 5] = ["check", "--", "litellm", "--config", "config.yaml"];

/// By the `auth` block of a server, as the first page shows it.
fn healthy_exec() -> String {
    let run = Run {
        title: "exec, where all is well",
        variables: &[],
        words: &EXEC,
    };
    run.transcript(&SetUp::new(), true)
}

/// What ends `exec` before LiteLLM starts, or ends LiteLLM.
fn broken_exec() -> String {
    let mut text = String::new();
    let mut add = |set_up: &SetUp, title, variables: &[(&str, &str)], words: &[&str]| {
        text += &Run {
            title,
            variables,
            words,
        }
        .transcript(set_up, false);
    };
    let set_up = SetUp::new();
    add(&set_up, "A secret that is not set", &[("SECRET", "")], &EXEC);
    add(
        &set_up,
        "A file of a secret that is not there",
        &[("SECRET", ""), ("SECRET_FILE", "/run/secrets/tools")],
        &EXEC,
    );
    add(
        &set_up,
        "Variables that are half set",
        &[("MCP_OAUTH2_CLIENT_ID", "litellm-proxy")],
        &EXEC,
    );
    add(
        &set_up,
        "A variable that is misspelt",
        &[("MCP_OAUTH2_SCOPES", "tools")],
        &EXEC,
    );
    add(
        &set_up,
        "LiteLLM that is not installed",
        &[],
        &["exec", "--", "lite-llm", "--config", "config.yaml"],
    );
    add(
        &set_up,
        "A configuration that is not there",
        &[],
        &["exec", "--", "litellm", "--config", "other.yaml"],
    );
    add(
        &set_up,
        "A collector without its address",
        &[],
        &[
            "exec",
            "--audit-log",
            "otlp",
            "--",
            "litellm",
            "--config",
            "config.yaml",
        ],
    );
    add(
        &set_up,
        "A command without the dashes",
        &[],
        &["exec", "litellm", "--config", "config.yaml"],
    );
    let taken = std::net::TcpListener::bind(("127.0.0.1", set_up.ground.port)).unwrap();
    add(&set_up, "A port that is in use", &[], &EXEC);
    drop(taken);
    set_up.configure(&set_up.configuration().replace("oauth2:", "oauth:"));
    add(&set_up, "An auth block that does not parse", &[], &EXEC);
    text
}

fn healthy_check() -> String {
    let run = Run {
        title: "check, where all is well",
        variables: &[],
        words: &CHECK,
    };
    run.transcript(&SetUp::new(), false)
}

fn broken_check() -> String {
    let mut text = String::new();
    let mut add = |set_up: &SetUp, title, variables: &[(&str, &str)]| {
        let run = Run {
            title,
            variables,
            words: &CHECK,
        };
        text += &run.transcript(set_up, false);
    };
    add(
        &SetUp::new(),
        "check: a client secret that the authorization server refuses",
        &[("SECRET", "wrong")],
    );
    let set_up = SetUp::new();
    set_up.configure("{}");
    add(&set_up, "check: nothing to authenticate to", &[]);
    let set_up = SetUp::new();
    set_up.configure(&set_up.configuration().replace("oauth2:", "oauth:"));
    add(&set_up, "check: an auth block that does not parse", &[]);
    let set_up = SetUp::new();
    set_up::write(&set_up.path("packages/litellm/__init__.py"), "patched = True\n");
    add(&set_up, "check: a LiteLLM that is changed", &[]);
    text
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/one-machine-transcripts.md")
}

#[test]
fn the_transcripts_are_what_the_commands_print() {
    let exec = healthy_exec();
    let rest = [broken_exec(), healthy_check(), broken_check()].concat();
    if std::env::var_os(WRITE).is_some() {
        let text = format!("{INTRODUCTION}{exec}{rest}");
        fs::write(document(), format!("{}\n", text.trim_end())).unwrap();
        return;
    }
    let written = fs::read_to_string(document()).unwrap_or_default();
    let stale = "docs/one-machine-transcripts.md is stale: write it anew as the head of this test says";
    let (head, others) = written.split_once("### A secret that is not set").expect(stale);
    assert_eq!(
        format!("### A secret that is not set{others}"),
        format!("{}\n", rest.trim_end()),
        "{stale}"
    );
    // Tokens, overlay and LiteLLM come in an order of their own, and a slow machine is told more.
    let printed = format!("{INTRODUCTION}{exec}");
    for line in head.lines() {
        assert!(
            printed.lines().any(|found| found == line),
            "{stale}: {line} is not in {printed}"
        );
    }
}
