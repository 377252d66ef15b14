//! Completion in the shells themselves, and by kubectl itself. A shell or a kubectl that is not there is named as skipped; bash has to be.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Completes the words in the array `COMP_WORDS` as bash does at a tab, and prints a candidate a line.
const COMPLETE_IN_BASH: &str = r#"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE="${COMP_WORDS[*]}" COMP_TYPE=9 COMP_KEY=9
    COMP_POINT=${#COMP_LINE}
    function=$(complete -p "${COMP_WORDS[0]}" | sed -n 's/.*-F \([^ ]*\) .*/\1/p')
    "$function" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    printf '%s\n' "${COMPREPLY[@]}"
"#;
/// Of the package bash-completion, which kubectl's script for bash builds on, as far as it does.
const WORDS_IN_BASH: &str = r#"
    _get_comp_words_by_ref() {
      words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    }
    __ltrim_colon_completions() { :; }
"#;

/// A folder for the PATH with the program, and with what kubectl asks.
fn installed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    symlink(
        env!("CARGO_BIN_EXE_kubectl-mcp_auth"),
        folder.path().join("kubectl-mcp_auth"),
    )
    .unwrap();
    let script = folder.path().join("kubectl_complete-mcp_auth");
    let output = program(folder.path(), "kubectl-mcp_auth", &["completion", "kubectl"]).expect("it is there");
    std::fs::write(&script, output).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// What a program prints, with this folder first on its PATH. None where there is no such program.
fn program(folder: &Path, name: &str, words: &[&str]) -> Option<String> {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(name);
    command
        .args(words)
        .env("PATH", path)
        .env("HOME", folder)
        .env("TERM", "dumb");
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {name} is not there");
            return None;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    assert!(output.status.success(), "{name} {words:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn lines(printed: &str) -> Vec<&str> {
    printed.lines().map(str::trim).collect()
}

#[test]
fn bash_completes_commands_options_and_their_values() {
    let folder = installed();
    let completed = |words: &str| {
        let script =
            format!("source <(kubectl-mcp_auth completion bash); COMP_WORDS=({words}); {COMPLETE_IN_BASH}");
        program(folder.path(), "bash", &["--norc", "--noprofile", "-c", &script]).expect("bash is there")
    };
    assert_eq!(lines(&completed("kubectl-mcp_auth sta")), ["status"]);
    assert_eq!(
        lines(&completed("kubectl-mcp_auth doctor --litellm-key-f")),
        ["--litellm-key-file"]
    );
    assert_eq!(
        lines(&completed("kubectl-mcp_auth status --output ''")),
        ["json", "yaml"]
    );
    assert_eq!(lines(&completed("kubectl-mcp_auth no-such-comm")), [""]);
}

#[test]
fn fish_completes_commands_and_values() {
    let folder = installed();
    let completed = |line: &str| {
        let script = format!("kubectl-mcp_auth completion fish | source; complete --do-complete '{line}'");
        program(folder.path(), "fish", &["--no-config", "-c", &script])
    };
    let Some(commands) = completed("kubectl-mcp_auth sta") else {
        return;
    };
    assert!(commands.starts_with("status\tShows MCP servers"), "{commands}");
    let values = completed("kubectl-mcp_auth status --output ").unwrap();
    assert_eq!(lines(&values).len(), 2, "{values}");
}

#[test]
fn zsh_completes_a_command_at_a_tab() {
    let folder = installed();
    if program(folder.path(), "zsh", &["--version"]).is_none() {
        return;
    }
    // A zsh of its own on a terminal of its own, whose output is waited for.
    let script = r#"
        zmodload zsh/zpty
        zpty inner "TERM=dumb zsh -f -i"
        zpty -w inner 'PS1= ; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u -D; source <(kubectl-mcp_auth completion zsh); print re"ady"'
        zpty -r inner text '*ready*'
        zpty -w -n inner $'kubectl-mcp_auth sta\t'
        zpty -r inner text '*sta*tus*'
        print -r -- completed
        zpty -d inner
    "#;
    // Only a zsh that completes nothing takes so long.
    let printed = program(folder.path(), "timeout", &["300", "zsh", "-f", "-c", script]).unwrap();
    assert_eq!(printed.trim(), "completed");
}

/// Whether there is a kubectl that asks plugins (1.26 or newer).
fn has_kubectl(folder: &Path) -> bool {
    let Some(version) = program(folder, "kubectl", &["version", "--client", "--output", "json"]) else {
        return false;
    };
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .unwrap()
        .trim_end_matches('+');
    minor.parse::<u32>().unwrap() >= 26
}

#[test]
fn kubectl_asks_the_plugin_itself() {
    let folder = installed();
    if !has_kubectl(folder.path()) {
        return;
    }
    let asked = |words: &[&str]| {
        program(
            folder.path(),
            "kubectl",
            &[&["__complete", "mcp-auth"], words].concat(),
        )
        .unwrap()
    };
    let commands = asked(&["sta"]);
    assert!(commands.starts_with("status\tShows MCP servers"), "{commands}");
    assert_eq!(lines(&asked(&["status", "--output", "y"])), ["yaml", ":4"]);
    assert_eq!(
        lines(&asked(&["render", "--file", ""])),
        [":0"],
        "files are the shell's"
    );
    let script = format!(
        "{WORDS_IN_BASH} source <(kubectl completion bash); COMP_WORDS=(kubectl mcp-auth doctor --crit); {COMPLETE_IN_BASH}"
    );
    let completed = program(folder.path(), "bash", &["--norc", "--noprofile", "-c", &script]).unwrap();
    assert!(lines(&completed)[0].starts_with("--criteria"), "{completed}");
}
