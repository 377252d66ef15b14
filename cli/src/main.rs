use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = mcp_auth_cli::args::Args::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing was installed before");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime without threads needs no more than memory");
    let status = runtime.block_on(mcp_auth_cli::run(args));
    // Looking up a name may hang in a thread of its own, which is nothing to wait for.
    runtime.shutdown_background();
    status.into()
}
