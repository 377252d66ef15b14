//! Connections that do nothing.

use serde_json::json;

use super::connection::Connection;
use super::{Target, say};
use crate::request;

#[derive(clap::Args)]
pub struct Args {
    target: Target,
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
}

pub fn run(args: &Args, context: Option<&str>) -> anyhow::Result<()> {
    let request = request::call(&args.target.authority, &args.target.path, context);
    let (mut open, mut failed) = (Vec::new(), 0);
    for _ in 0..args.connections {
        let mut connection = Connection::open(&args.target.authority)?;
        match connection.exchange(&request) {
            Ok(answer) if answer.status == 200 => {}
            _ => failed += 1,
        }
        open.push(connection);
    }
    say(&json!({"connections": open.len(), "failed": failed}))?;
    // No request is ever sent there; it ends with a line, or the end, of standard input.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
