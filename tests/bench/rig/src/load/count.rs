//! So many requests: what instructions are counted over.

use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use crate::request;

#[derive(clap::Args)]
pub struct Args {
    target: Target,
    #[arg(long)]
    requests: usize,
}

pub fn run(args: &Args, context: Option<&str>) -> anyhow::Result<Value> {
    let request = request::call(&args.target.authority, &args.target.path, context);
    let mut connection = Connection::open(&args.target.authority)?;
    for number in 0..args.requests {
        let answer = connection.exchange(&request)?;
        anyhow::ensure!(answer.status == 200, "request {number} got {}", answer.status);
    }
    Ok(json!({"requests": args.requests}))
}
