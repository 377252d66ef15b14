//! Completion of the command line: scripts of shells for the program's own name, and the answers to kubectl, which asks the program
//! `kubectl_complete-PLUGIN` on the PATH what the last word of `kubectl PLUGIN ...` can be (kubectl 1.26, kubernetes/kubectl#1378).

use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use crate::args::{Args, Completer};

/// What kubectl looks for on the PATH.
const FOR_KUBECTL: &str = include_str!("../kubectl_complete-mcp_auth");
/// The program's own name, which shells complete.
const PROGRAM: &str = "kubectl-mcp_auth";
/// The same without `-`: clap_complete's script for bash spells a name with it in two ways, and then completes no subcommand's options.
const PROGRAM_IN_BASH: &str = "kubectl_mcp_auth";

pub fn script(completer: Completer) -> String {
    let shell = match completer {
        Completer::Bash => Shell::Bash,
        Completer::Zsh => Shell::Zsh,
        Completer::Fish => Shell::Fish,
        Completer::Kubectl => return FOR_KUBECTL.to_owned(),
    };
    let name = match shell {
        Shell::Bash => PROGRAM_IN_BASH,
        _ => PROGRAM,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), name, &mut script);
    let script = String::from_utf8_lossy(&script);
    // What is completed is the last word of a line, and the function's name is another.
    script.replace(&format!(" {PROGRAM_IN_BASH}\n"), &format!(" {PROGRAM}\n"))
}

/// What the last of these words can be: a line each, with a description behind a tab, and cobra's `ShellCompDirective`.
pub fn answer(words: &[String]) -> String {
    let mut root = Args::command();
    root.build();
    let (last, before) = match words {
        [before @ .., last] => (last.as_str(), before),
        [] => ("", words),
    };
    let candidates = Place::behind(&root, before).candidates(last);
    let mut text = String::new();
    for (value, help) in candidates
        .values
        .iter()
        .filter(|(value, _)| value.starts_with(last))
    {
        text.push_str(value);
        if let Some(help) = help.lines().next().filter(|help| !help.is_empty()) {
            text.push_str(&format!("\t{help}"));
        }
        text.push('\n');
    }
    format!("{text}:{}\n", candidates.directive())
}

/// Where in the command line a word stands.
struct Place<'a> {
    command: &'a Command,
    /// The option whose value it is.
    option: Option<&'a Arg>,
    /// How many positional arguments of the command stand before it.
    positional: usize,
    /// Behind `--` nothing is an option.
    is_escaped: bool,
}

/// Values with what they mean.
#[derive(Default)]
struct Candidates {
    values: Vec<(String, String)>,
    is_file: bool,
}

impl<'a> Place<'a> {
    fn behind(root: &'a Command, words: &[String]) -> Self {
        let mut place = Self {
            command: root,
            option: None,
            positional: 0,
            is_escaped: false,
        };
        for word in words {
            if place.option.take().is_some() {
                continue;
            }
            if !place.is_escaped && word.starts_with('-') {
                place.is_escaped = word == "--";
                place.option = place.waiting_option(word);
                continue;
            }
            match place.command.find_subcommand(word).filter(|_| !place.is_escaped) {
                Some(command) => (place.command, place.positional) = (command, 0),
                None => place.positional += 1,
            }
        }
        place
    }

    /// The option that this word ends with, if the next word is its value.
    fn waiting_option(&self, word: &str) -> Option<&'a Arg> {
        let found = match word.strip_prefix("--") {
            Some(long) => self.arguments().find(|arg| arg.get_long() == Some(long)),
            // Of several in one word the last one counts; behind one that takes a value the rest is that value.
            None => {
                let mut shorts = word.chars().skip(1);
                let option = shorts.find_map(|short| {
                    let arg = self.arguments().find(|arg| arg.get_short() == Some(short))?;
                    arg.get_action().takes_values().then_some(arg)
                });
                option.filter(|_| shorts.next().is_none())
            }
        };
        found.filter(|arg| arg.get_action().takes_values())
    }

    fn arguments(&self) -> impl Iterator<Item = &'a Arg> {
        self.command.get_arguments().filter(|arg| !arg.is_hide_set())
    }

    fn candidates(&self, last: &str) -> Candidates {
        if let Some(option) = self.option {
            return Candidates::of_value(option, "");
        }
        if self.is_escaped || !last.starts_with('-') {
            let argument = self.command.get_positionals().nth(self.positional);
            let mut candidates =
                argument.map_or_else(Candidates::default, |arg| Candidates::of_value(arg, ""));
            let commands = self.command.get_subcommands();
            let commands =
                commands.filter(|command| !command.is_hide_set() && !self.is_escaped && self.positional == 0);
            candidates
                .values
                .extend(commands.map(|command| (command.get_name().to_owned(), text(command.get_about()))));
            return candidates;
        }
        if let Some((name, _)) = last.split_once('=') {
            let option = self.waiting_option(name);
            return option.map_or_else(Candidates::default, |arg| {
                Candidates::of_value(arg, &format!("{name}="))
            });
        }
        let options = self.arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
        Candidates {
            values: options
                .map(|(arg, long)| (format!("--{long}"), text(arg.get_help())))
                .collect(),
            is_file: false,
        }
    }
}

impl Candidates {
    fn of_value(arg: &Arg, prefix: &str) -> Self {
        let values = arg.get_possible_values();
        let values = values
            .iter()
            .filter(|value| arg.get_action().takes_values() && !value.is_hide_set());
        let value = |value: &clap::builder::PossibleValue| {
            (format!("{prefix}{}", value.get_name()), text(value.get_help()))
        };
        Self {
            values: values.map(value).collect(),
            is_file: matches!(arg.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath),
        }
    }

    /// 0: the shell completes files; 4: it does not.
    fn directive(&self) -> u8 {
        match self.is_file {
            true => 0,
            false => 4,
        }
    }
}

fn text(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        answer(&words).lines().map(str::to_owned).collect()
    }

    fn values(words: &[&str]) -> Vec<String> {
        let mut lines = asked(words);
        assert_eq!(lines.pop().unwrap(), ":4", "{words:?}");
        let value = |line: String| line.split('\t').next().unwrap_or_default().to_owned();
        lines.into_iter().map(value).collect()
    }

    #[test]
    fn kubectl_is_told_the_commands_with_what_they_do() {
        let lines = asked(&["st"]);
        assert_eq!(
            lines,
            [
                "status\tShows MCP servers, their tokens, and which LiteLLM pods have the sidecar",
                ":4"
            ]
        );
        for words in [&[][..], &[""]] {
            let all = values(words);
            assert!(all.contains(&"doctor".to_owned()) && all.contains(&"completion".to_owned()));
            assert!(!all.contains(&"__complete".to_owned()), "{all:?}");
        }
        assert_eq!(values(&["import", "l"]), ["litellm"]);
    }

    #[test]
    fn options_and_their_values_are_those_of_the_command() {
        assert_eq!(values(&["status", "--all"]), ["--all-namespaces"]);
        assert_eq!(
            values(&["--context", "doctor", "status", "--conte"]),
            ["--context"]
        );
        for before in [&["-A", "--output"][..], &["-Ao"], &["-o"]] {
            assert_eq!(
                values(&[&["doctor"], before, &["j"]].concat()),
                ["json"],
                "{before:?}"
            );
        }
        assert_eq!(
            values(&["doctor", "--output="]),
            ["--output=json", "--output=yaml"]
        );
        assert_eq!(values(&["completion", "k"]), ["kubectl"]);
        assert_eq!(values(&["completion", "bash", ""]), [""; 0]);
        assert_eq!(values(&["status", "--no-such", "--", "--all"]), [""; 0]);
        assert_eq!(
            values(&["token", "status", ""]),
            [""; 0],
            "a server may be called as a command is"
        );
    }

    #[test]
    fn files_are_left_to_the_shell() {
        for words in [
            &["doctor", "--litellm-key-file", "k"][..],
            &["render", "-f", ""],
            &["render", "--file="],
            &["import", "litellm", "con"],
        ] {
            assert_eq!(asked(words), [":0"]);
        }
    }
}
