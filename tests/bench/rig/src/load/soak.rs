//! What an hour brings, as fast as it goes: many users, some requests that fail, servers that do not exist,
//! and clients that go away before their answer. A request goes through inbound half, stand-in and outbound
//! half.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::connection::Connection;
use crate::request::CALL;

#[derive(clap::Args)]
pub struct Args {
    /// HOST:PORT of the sidecar's inbound half.
    authority: String,
    #[arg(long)]
    requests: usize,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 5_000)]
    users: usize,
}

/// Of a hundred requests.
const ERRORS: usize = 3;
const UNKNOWN: usize = 2;
const ABORTED: usize = 2;
const LISTS: usize = 5;

#[derive(Default)]
struct Counts {
    ok: AtomicUsize,
    server_errors: AtomicUsize,
    refused: AtomicUsize,
    aborted: AtomicUsize,
    unexpected: AtomicUsize,
}

pub fn run(args: &Args) -> anyhow::Result<Value> {
    let counts = Counts::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.connections {
            scope.spawn(|| work(args, &next, &counts));
        }
    });
    let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    Ok(json!({
        "requests": args.requests,
        "ok": read(&counts.ok),
        "server_errors": read(&counts.server_errors),
        "refused": read(&counts.refused),
        "aborted": read(&counts.aborted),
        "unexpected": read(&counts.unexpected),
    }))
}

fn work(args: &Args, next: &AtomicUsize, counts: &Counts) {
    let mut connection = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= args.requests {
            return;
        }
        let kept = connection
            .take()
            .map_or_else(|| Connection::open(&args.authority), Ok);
        let Ok(mut kept) = kept else {
            counts.unexpected.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // A prime step mixes kinds and users.
        let share = number * 37 % 100;
        let user = number * 7_919 % args.users;
        let (path, expected) = match share {
            _ if share < ERRORS => ("/rig/error", 500),
            _ if share < ERRORS + UNKNOWN => ("/nobody/mcp", 404),
            _ => ("/rig/mcp", 200),
        };
        let listed = share >= 100 - LISTS;
        // An MCP client would be told by the result of a tool, with the status of success.
        let accept = match expected {
            404 => "application/json",
            _ => "application/json, text/event-stream",
        };
        let request = request(&args.authority, path, accept, (!listed).then_some(user));
        if (50..50 + ABORTED).contains(&share) {
            let sent = kept.send(&request);
            // Closed here, most often before the answer.
            counts
                .aborted
                .fetch_add(usize::from(sent.is_ok()), Ordering::Relaxed);
            continue;
        }
        let count = match kept.exchange(&request) {
            Ok(answer) if answer.status == expected => match expected {
                200 => &counts.ok,
                404 => &counts.refused,
                _ => &counts.server_errors,
            },
            _ => &counts.unexpected,
        };
        count.fetch_add(1, Ordering::Relaxed);
        connection = Some(kept);
    }
}

/// Without a user there is no cookie, as with the discovery of tools.
fn request(authority: &str, path: &str, accept: &str, user: Option<usize>) -> Vec<u8> {
    let cookie = user.map_or_else(String::new, |user| {
        format!("Cookie: sid=session-{user:08}-0123456789abcdef; theme=dark; csrf=fedcba9876543210\r\n")
    });
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\n{cookie}Accept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        CALL.len()
    )
    .into_bytes();
    request.extend_from_slice(CALL);
    request
}
