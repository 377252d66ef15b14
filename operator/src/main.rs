use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing was installed before");
    mcp_auth_operator::run(mcp_auth_operator::Args::parse()).await
}
