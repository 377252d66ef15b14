use std::io::Write as _;
use std::process::ExitCode;

use mcp_auth_operator::{Command, InjectArgs, run, run_inject};

/// Thousands of streams come and go, of which the system's allocator keeps the gaps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A pod would be refused.
const REFUSED: u8 = 1;
/// The input cannot be used.
const UNUSABLE: u8 = 2;

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Run(args) => {
            with_tls_provider()?.block_on(run(*args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Inject(args) => inject(&args),
    }
}

/// A runtime for what speaks TLS.
fn with_tls_provider() -> std::io::Result<tokio::runtime::Runtime> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing was installed before");
    tokio::runtime::Runtime::new()
}

fn inject(args: &InjectArgs) -> anyhow::Result<ExitCode> {
    match run_inject(args) {
        Ok(report) => {
            for note in &report.notes {
                writeln!(std::io::stderr(), "note: {note}")?;
            }
            std::io::stdout().write_all(report.text.as_bytes())?;
            Ok(if report.refused {
                REFUSED.into()
            } else {
                ExitCode::SUCCESS
            })
        }
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error}")?;
            Ok(UNUSABLE.into())
        }
    }
}
