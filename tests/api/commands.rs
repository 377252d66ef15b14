//! The commands that documents show: each is one that there is.

use std::collections::BTreeMap;
use std::path::Path;

use mcp_auth_tests::documents::{pages, read};
use mcp_auth_tests::setting;
use tokio::process::Command;

/// Words before which the arguments of a program of ours stand, and the setting with that program.
const PROGRAMS: [(&str, &str); 4] = [
    ("kubectl mcp-auth", "MCPAUTH_TEST_CLI"),
    ("kubectl-mcp_auth", "MCPAUTH_TEST_CLI"),
    ("mcp-auth-operator", "MCPAUTH_TEST_OPERATOR_PROGRAM"),
    ("mcp-auth", "MCPAUTH_TEST_LOCAL"),
];

/// The help of programs and their commands.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, String>);

impl Helps {
    async fn of(&mut self, program: &str, commands: &[String]) -> String {
        let key: Vec<String> = [program.to_owned()]
            .into_iter()
            .chain(commands.iter().cloned())
            .collect();
        if !self.0.contains_key(&key) {
            let output = Command::new(program)
                .args(commands)
                .arg("--help")
                .output()
                .await
                .unwrap();
            assert!(output.status.success(), "{key:?} --help: {output:?}");
            self.0
                .insert(key.clone(), String::from_utf8(output.stdout).unwrap());
        }
        self.0[&key].clone()
    }

    /// What is wrong with these arguments of the program.
    async fn objection(&mut self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut commands: Vec<String> = Vec::new();
        // What follows `--` is another program's.
        let own: Vec<&str> = arguments
            .iter()
            .copied()
            .take_while(|word| *word != "--")
            .collect();
        for word in own.iter().filter(|word| !word.starts_with('-')) {
            let help = self.of(program, &commands).await;
            let known = subcommands(&help);
            if known.iter().any(|known| known == word) {
                commands.push((*word).to_owned());
            } else if known.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                break;
            } else {
                return Some(format!("there is no command `{word}`, but {known:?}"));
            }
        }
        let help = self.of(program, &commands).await;
        let flags = own.iter().filter(|word| word.starts_with("--"));
        let names = flags.map(|flag| flag.split('=').next().unwrap_or_default().trim_end_matches(','));
        names
            .filter(|name| {
                !help
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                    .any(|word| word == *name)
            })
            .map(|name| format!("{commands:?} has no `{name}`"))
            .next()
    }
}

/// The commands that a help lists.
fn subcommands(help: &str) -> Vec<&str> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[tokio::test]
async fn every_command_of_ours_that_a_page_shows_is_one_that_there_is() {
    let mut helps = Helps::default();
    let (mut checked, mut problems) = (0, Vec::new());
    for page in pages() {
        for command in page.commands() {
            let found = PROGRAMS.iter().find_map(|(words, setting)| {
                Some((command.strip_prefix(words)?.strip_prefix(' ')?, setting))
            });
            let Some((arguments, program)) = found else {
                continue;
            };
            let arguments: Vec<&str> = arguments.split_whitespace().collect();
            checked += 1;
            if let Some(objection) = helps.objection(&setting(program), &arguments).await {
                problems.push(format!("{}: `{command}`: {objection}", page.path));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    assert!(checked >= 30, "{checked} commands were found");
    for (program, arguments) in [
        ("MCPAUTH_TEST_CLI", "stattus"),
        ("MCPAUTH_TEST_LOCAL", "exec --starttimeout 5"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let objection = helps.objection(&setting(program), &arguments).await;
        assert!(objection.is_some(), "{arguments:?} would be taken");
    }
}

#[test]
fn every_target_of_make_that_a_page_names_is_one_that_there_is() {
    let makefile = read("Makefile").text;
    let targets: Vec<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .collect();
    let (mut checked, mut problems) = (0, Vec::new());
    for page in pages().into_iter().chain([
        read("DEVELOPERS.md"),
        read("CONTRIBUTING.md"),
        read("SECURITY.md"),
    ]) {
        for command in page.commands() {
            let Some(target) = command
                .strip_prefix("make ")
                .and_then(|rest| rest.split_whitespace().next())
            else {
                continue;
            };
            checked += 1;
            if !targets.contains(&target) {
                problems.push(format!("{}: `{command}`", page.path));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "the Makefile has no such target:\n{}",
        problems.join("\n")
    );
    assert!(checked >= 40, "{checked} commands were found");
}

#[test]
fn every_file_and_target_that_other_programs_are_told_of_is_there() {
    let exists = |path: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(path)
            .is_file()
    };
    let dockerfile = read("Dockerfile").text.to_lowercase();
    let (mut checked, mut problems) = (0, Vec::new());
    for page in pages()
        .into_iter()
        .chain([read("DEVELOPERS.md"), read("CONTRIBUTING.md")])
    {
        for command in page.commands() {
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |option: &str| {
                let place = words.iter().position(|word| *word == option)?;
                words.get(place + 1).copied()
            };
            let holds = match words[0] {
                "cargo" => after("--path").map(|folder| exists(&format!("{folder}/Cargo.toml"))),
                "maturin" => after("--manifest-path").map(exists),
                "docker" => after("--target").map(|target| dockerfile.contains(&format!(" as {target}\n"))),
                "helm" => (words.contains(&"charts/mcp-auth")).then(|| exists("charts/mcp-auth/Chart.yaml")),
                script if script.starts_with("tests/") && words.len() > 1 => Some(exists(script)),
                _ => None,
            };
            checked += usize::from(holds.is_some());
            if holds == Some(false) {
                problems.push(format!("{}: `{command}`", page.path));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "what they name is not there:\n{}",
        problems.join("\n")
    );
    assert!(checked >= 8, "{checked} commands were found");
}
