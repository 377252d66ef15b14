//! Runs the command that was named.

use crate::args::{Args, Command, ImportCommand};
use crate::cluster::ClusterOptions;
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::{completion, doctor, explain, import, logs, output, render, status, token};

/// Runs to the end. An error has been printed when it returns.
pub async fn run(args: Args) -> ExitStatus {
    match command(args).await {
        Ok(status) => status,
        Err(error) => {
            output::print_error(&format!("error: {}", output::clean(&error.to_string())));
            error.exit_status()
        }
    }
}

async fn command(args: Args) -> Result<ExitStatus, CliError> {
    let cluster = ClusterOptions::from(args.cluster);
    match args.command {
        Command::Status(args) => status::run(&cluster, &args).await,
        Command::Doctor(args) => doctor::run(&cluster, &args).await,
        Command::Explain(args) => explain::run(&cluster, &args).await,
        Command::Token(args) => token::run(&cluster, &args).await,
        Command::Logs(args) => logs::run(&cluster, &args).await,
        Command::Render(args) => render::run(&cluster, &args).await,
        Command::Import(ImportCommand::Litellm(args)) => import::run(&args),
        Command::Completion { completer } => {
            output::print(&completion::script(completer))?;
            Ok(ExitStatus::Success)
        }
        Command::Complete { words } => {
            output::print(&completion::answer(&words))?;
            Ok(ExitStatus::Success)
        }
    }
}
