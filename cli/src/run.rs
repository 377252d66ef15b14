//! Runs the command that was named.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Args, Command, ImportCommand};
use crate::cluster::ClusterOptions;
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::{doctor, explain, import, logs, output, render, status, token};

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
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let mut command = Args::command();
            // The shell completes the program's own name.
            clap_complete::generate(Shell::from(shell), &mut command, "kubectl-mcp_auth", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitStatus::Success)
        }
    }
}
