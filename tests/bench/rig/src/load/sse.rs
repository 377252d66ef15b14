//! Event streams, read on one thread. Each event says when it was sent.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Target, percentile};
use crate::clock::nanoseconds;
use crate::request;

#[derive(clap::Args)]
pub struct Args {
    target: Target,
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// What comes before the measurement: streams open, buffers grow.
    #[arg(long, default_value_t = 1)]
    warm_up: u64,
    #[arg(long)]
    seconds: u64,
}

const SECOND: u64 = 1_000_000_000;
/// Events come every 50 ms.
const SILENCE: Duration = Duration::from_secs(3);
const SENT_AT: &[u8] = b"\"t\":";

#[derive(Default)]
struct Seen {
    latencies: Vec<u64>,
    reads: u64,
    broken: u64,
}

pub fn run(args: Args, context: Option<&str>) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = request::head(&args.target.authority, &args.target.path, None, context);
    let from = nanoseconds() + args.warm_up * SECOND;
    let to = from + args.seconds * SECOND;
    let mut all = Seen::default();
    runtime.block_on(async {
        let streams: Vec<_> = (0..args.streams)
            .map(|_| tokio::spawn(read(args.target.authority.clone(), request.clone(), from, to)))
            .collect();
        for stream in streams {
            let seen = stream.await.unwrap_or(Seen {
                broken: 1,
                ..Seen::default()
            });
            all.latencies.extend(seen.latencies);
            all.reads += seen.reads;
            all.broken += seen.broken;
        }
    });
    all.latencies.sort_unstable();
    Ok(json!({
        "streams": args.streams,
        "broken": all.broken,
        "events": all.latencies.len(),
        "reads": all.reads,
        "p50": percentile(&all.latencies, 0.5),
        "p99": percentile(&all.latencies, 0.99),
    }))
}

async fn read(authority: String, request: Vec<u8>, from: u64, to: u64) -> Seen {
    let mut seen = Seen {
        broken: 1,
        ..Seen::default()
    };
    let Ok(mut stream) = TcpStream::connect(authority).await else {
        return seen;
    };
    if stream.set_nodelay(true).is_err() || stream.write_all(&request).await.is_err() {
        return seen;
    }
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        buffer.clear();
        match timeout(SILENCE, stream.read_buf(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return seen,
        }
        let now = nanoseconds();
        if now > to {
            seen.broken = 0;
            return seen;
        }
        if now < from {
            continue;
        }
        seen.reads += 1;
        let mut rest = &buffer[..];
        while let Some(at) = rest.windows(SENT_AT.len()).position(|window| window == SENT_AT) {
            rest = &rest[at + SENT_AT.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
            let sent = digits.fold(0, |sent, digit| sent * 10 + u64::from(digit - b'0'));
            seen.latencies.push(now.saturating_sub(sent));
        }
    }
}
