//! Large bodies, one after the other on each connection.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use crate::request;

#[derive(clap::Args)]
pub struct Args {
    target: Target,
    /// Sends 10 MB instead of asking for them.
    #[arg(long)]
    up: bool,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
}

const LENGTH: usize = 10 * 1024 * 1024;

pub fn run(args: &Args, context: Option<&str>) -> anyhow::Result<Value> {
    let length = args.up.then_some(LENGTH);
    let mut request = request::head(&args.target.authority, &args.target.path, length, context);
    request.resize(request.len() + length.unwrap_or_default(), b'x');
    let started = Instant::now();
    let end = started + Duration::from_secs(args.seconds);
    let (mut number, mut failed) = (0_usize, 0_usize);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.connections)
            .map(|_| scope.spawn(|| measure(&args.target, &request, args.up, end)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok((some, whole)) => {
                    number += some;
                    failed += usize::from(!whole);
                }
                Err(_) => failed += 1,
            }
        }
    });
    let megabytes = (number * LENGTH) as f64 / 1e6;
    let rate = megabytes / started.elapsed().as_secs_f64();
    Ok(json!({"bodies": number, "failed": failed, "megabytes": megabytes, "megabytes_per_second": rate}))
}

/// How many bodies passed, and whether none broke.
fn measure(target: &Target, request: &[u8], up: bool, end: Instant) -> (usize, bool) {
    let Ok(mut connection) = Connection::open(&target.authority) else {
        return (0, false);
    };
    let mut number = 0;
    while Instant::now() < end {
        match connection.exchange(request) {
            Ok(answer) if answer.status == 200 && (up || answer.length == LENGTH) => number += 1,
            _ => return (number, false),
        }
    }
    (number, true)
}
