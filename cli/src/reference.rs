//! The reference in `docs/cli.md`: every command's help, and the exit codes.

use clap::{Command, CommandFactory};

use crate::args::Args;
use crate::exit_code::ExitStatus;

/// Markdown, made of the command line's own help.
pub fn markdown() -> String {
    let mut text = String::new();
    let mut root = Args::command();
    root.build();
    section(&root, "kubectl mcp-auth", &mut text);
    text.push_str("### Exit codes\n\n| code | meaning |\n|---|---|\n");
    for status in ExitStatus::ALL {
        text.push_str(&format!("| {} | {} |\n", status.code(), status.meaning()));
    }
    text
}

fn section(command: &Command, path: &str, text: &mut String) {
    let help = command.clone().bin_name(path).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!(
        "### `{path}`\n\n```\n{}\n```\n\n",
        lines.join("\n").trim_end()
    ));
    let commands = command.get_subcommands();
    for subcommand in
        commands.filter(|subcommand| subcommand.get_name() != "help" && !subcommand.is_hide_set())
    {
        section(subcommand, &format!("{path} {}", subcommand.get_name()), text);
    }
}
