//! Makes load on a proxy. A target is HOST:PORT/PATH.

mod connection;
mod count;
mod idle;
mod large;
mod open;
mod soak;
mod sse;

use std::io::Write;
use std::str::FromStr;

use clap::Subcommand;
use serde_json::Value;

#[derive(clap::Args)]
pub struct Args {
    /// A sealed user context to send with each request.
    #[arg(long, global = true)]
    context: Option<String>,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Prints the request that all kinds of load are made of, without a context unless one is given.
    Request { target: Target },
    /// So many requests, one after the other on each connection.
    Count(count::Args),
    /// A rate that does not heed how fast answers come; latency counts from when a request was due.
    Open(open::Args),
    /// Event streams.
    Sse(sse::Args),
    /// 10 MB a time, down or up.
    Large(large::Args),
    /// Connections that had one request each, kept until standard input ends.
    Idle(idle::Args),
    /// Users, errors and clients that go away, mixed.
    Soak(soak::Args),
}

#[derive(Clone, Debug)]
pub struct Target {
    pub authority: String,
    pub path: String,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { context, kind } = args;
    let context = context.as_deref();
    let measured = match kind {
        Kind::Request { target } => {
            let request = crate::request::call(&target.authority, &target.path, context);
            return Ok(std::io::stdout().write_all(&request)?);
        }
        Kind::Count(args) => count::run(&args, context)?,
        Kind::Open(args) => open::run(&args, context)?,
        Kind::Sse(args) => sse::run(args, context)?,
        Kind::Large(args) => large::run(&args, context)?,
        Kind::Idle(args) => return idle::run(&args, context),
        Kind::Soak(args) => soak::run(&args)?,
    };
    say(&measured)
}

/// One line.
fn say(measured: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{measured}")?;
    Ok(out.flush()?)
}

/// Microseconds at this share of nanoseconds that are in order.
fn percentile(sorted: &[u64], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share) as usize;
    let value = sorted.get(at.min(sorted.len().checked_sub(1)?))?;
    Some(*value as f64 / 1_000.0)
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let slash = text.find('/').ok_or("must be HOST:PORT/PATH")?;
        let (authority, path) = text.split_at(slash);
        Ok(Self {
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}
