//! An MCP server by the last segment of the path, on one thread:
//!
//! | segment | answer |
//! |---|---|
//! | `echo` | the request's headers as JSON, and the length of its body |
//! | `sse` | an event every 50 ms that says when it was sent |
//! | `big` | 10 MB with their length |
//! | `sink` | reads the body whole |
//! | `error` | 500 |
//! | others | 300 bytes of JSON-RPC |

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::certificates;
use crate::clock::nanoseconds;
use crate::serve::{Body, serve};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    tls_port: u16,
    /// What `rig certificates` wrote.
    #[arg(long)]
    folder: PathBuf,
}

const BIG: usize = 10 * 1024 * 1024;
const EVENT_PERIOD_MS: u64 = 50;
const ANSWER: &[u8] = concat!(
    r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"#,
    r#""The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. "#,
    "How vexingly quick daft zebras jump! Sphinx of black quartz, judge my vow. ",
    r#"0123456789 abcdefghijklmnopqrstuvwxyz"}],"isError":false},"_m":"xxxx"}"#
)
.as_bytes();

static TEN_MEGABYTES: LazyLock<Bytes> = LazyLock::new(|| {
    (0..BIG)
        .map(|at| b'a' + (at % 23) as u8)
        .collect::<Vec<u8>>()
        .into()
});
/// Streams begin at different moments, lest all events come at once.
static PHASE: AtomicU64 = AtomicU64::new(0);

pub async fn run(args: Args) -> anyhow::Result<()> {
    let acceptor = certificates::acceptor(&args.folder, &["h2", "http/1.1"])?;
    tokio::try_join!(
        serve(args.port, None, answer),
        serve(args.tls_port, Some(acceptor), answer),
    )?;
    Ok(())
}

/// Name and value of each header, and the length of the body.
pub async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| [name.as_str(), value.to_str().unwrap_or("?")])
        .collect();
    let version = format!("{:?}", parts.version);
    json(serde_json::json!({"version": version, "length": length, "headers": headers}).to_string())
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    match path.rsplit('/').next().unwrap_or_default() {
        "echo" => echo(request).await,
        "sse" => events(),
        "big" => json(TEN_MEGABYTES.clone()),
        "sink" => {
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(Ok(frame)) = body.frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            json(serde_json::json!({"length": length}).to_string())
        }
        "error" => {
            let _ = request.into_body().collect().await;
            let mut response = json(ANSWER);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        _ => {
            let _ = request.into_body().collect().await;
            json(ANSWER)
        }
    }
}

fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn events() -> Response<Body> {
    let phase = PHASE.fetch_add(7, Ordering::Relaxed) % EVENT_PERIOD_MS;
    let first = Instant::now() + Duration::from_millis(phase + 1);
    let mut ticks = interval_at(first, Duration::from_millis(EVENT_PERIOD_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let events = futures::stream::unfold(ticks, async |mut ticks| {
        ticks.tick().await;
        let event = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\
             \"params\":{{\"t\":{},\"progress\":0.5,\"message\":\"step of a long running tool call\"}}}}\n\n",
            nanoseconds()
        );
        Some((Ok(Frame::data(Bytes::from(event))), ticks))
    });
    let mut response = Response::new(StreamBody::new(events.boxed()).boxed_unsync());
    let stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, stream);
    response
}
