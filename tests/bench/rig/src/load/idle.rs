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
    /// At the end each has another request, and it is said how many were answered.
    #[arg(long)]
    again: bool,
}

pub fn run(args: &Args, context: Option<&str>) -> anyhow::Result<()> {
    let request = request::call(&args.target.authority, &args.target.path, context);
    let has_answer = |connection: &mut Connection| {
        let answer = connection.exchange(&request);
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let (mut open, mut failed) = (Vec::new(), 0);
    for _ in 0..args.connections {
        let mut connection = Connection::open(&args.target.authority)?;
        if !has_answer(&mut connection) {
            failed += 1;
        }
        open.push(connection);
    }
    say(&json!({"connections": open.len(), "failed": failed}))?;
    // No request is sent there until a line, or the end, of standard input.
    std::io::stdin().read_line(&mut String::new())?;
    if args.again {
        let answered = open
            .iter_mut()
            .map(has_answer)
            .filter(|answered| *answered)
            .count();
        say(&json!({"connections": open.len(), "answered": answered}))?;
    }
    Ok(())
}
