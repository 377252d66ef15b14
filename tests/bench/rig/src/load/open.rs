//! Open loop: requests are due at fixed moments, spread over the connections.

use serde_json::{Value, json};

use super::connection::Connection;
use super::{Target, percentile};
use crate::clock::{be_punctual, nanoseconds, sleep_until};
use crate::request;

#[derive(clap::Args)]
pub struct Args {
    target: Target,
    /// Requests a second.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    #[arg(long, default_value_t = 16)]
    connections: u64,
    #[arg(long)]
    seconds: u64,
}

const SECOND: u64 = 1_000_000_000;
/// For all connections to be open before the first request is due.
const START: u64 = SECOND / 20;
const WARM_UP: usize = 3;

pub fn run(args: &Args, context: Option<&str>) -> anyhow::Result<Value> {
    be_punctual();
    let start = nanoseconds() + START;
    let period = SECOND * args.connections / args.rate;
    let number = args.seconds * args.rate / args.connections;
    let threads: Vec<_> = (0..args.connections)
        .map(|connection| {
            let target = args.target.clone();
            let request = request::call(&target.authority, &target.path, context);
            let first = start + connection * period / args.connections;
            std::thread::spawn(move || measure(&target, &request, first, period, number))
        })
        .collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for thread in threads {
        match thread.join() {
            Ok((some, bad)) => {
                latencies.extend(some);
                failed += bad;
            }
            Err(_) => failed += number,
        }
    }
    latencies.sort_unstable();
    Ok(json!({
        "requests": latencies.len(),
        "failed": failed,
        "p50": percentile(&latencies, 0.5),
        "p90": percentile(&latencies, 0.9),
        "p99": percentile(&latencies, 0.99),
    }))
}

fn measure(target: &Target, request: &[u8], first: u64, period: u64, number: u64) -> (Vec<u64>, u64) {
    let Ok(mut connection) = Connection::open(&target.authority) else {
        return (Vec::new(), number);
    };
    for _ in 0..WARM_UP {
        // What is wrong shows below.
        let _ = connection.exchange(request);
    }
    let mut latencies = Vec::new();
    for at in 0..number {
        let due = first + at * period;
        sleep_until(due);
        match connection.exchange(request) {
            Ok(answer) if answer.status == 200 => latencies.push(nanoseconds().saturating_sub(due)),
            _ => return (latencies, number - at),
        }
    }
    (latencies, 0)
}
