//! The operator, as far as a sidecar sees it: one snapshot of a file's servers, and, if asked for, another
//! token every so often. Tokens here are no secrets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use mcp_auth_protocol::sync::{self, Credential, Server, Snapshot};
use mcp_auth_protocol::timeouts;
use tokio::time::{MissedTickBehavior, interval};

use crate::certificates;
use crate::serve::{Body, serve};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    port: u16,
    /// What `rig certificates` wrote.
    #[arg(long)]
    folder: PathBuf,
    /// A JSON array of servers, each with its credential.
    #[arg(long)]
    servers: PathBuf,
    /// Milliseconds between two tokens; never another one if left out.
    #[arg(long)]
    rotate: Option<u64>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let text =
        std::fs::read(&args.servers).with_context(|| format!("{} cannot be read", args.servers.display()))?;
    let servers: Arc<Vec<Server>> = serde_json::from_slice::<Vec<Server>>(&text).map(Arc::new)?;
    let authority: Arc<str> = std::fs::read_to_string(args.folder.join("ca.pem"))?.into();
    let acceptor = certificates::acceptor(&args.folder, &["h2", "http/1.1"])?;
    serve(args.port, Some(acceptor), move |request: Request<Incoming>| {
        let (servers, authority) = (servers.clone(), authority.clone());
        async move {
            match request.uri().path() {
                sync::PATH => stream(request.into_body(), servers, authority, args.rotate),
                _ => {
                    let mut response = Response::new(BodyExt::boxed_unsync(Empty::new()));
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    response
                }
            }
        }
    })
    .await
}

fn stream(
    reports: Incoming,
    servers: Arc<Vec<Server>>,
    authority: Arc<str>,
    rotate: Option<u64>,
) -> Response<Body> {
    // Reports are read, lest the sidecar find its window full.
    tokio::spawn(reports.collect());
    let period = rotate.map_or(timeouts::HEARTBEAT, Duration::from_millis);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lines = futures::stream::unfold((ticks, 0_u64), move |(mut ticks, number)| {
        let (servers, authority) = (servers.clone(), authority.clone());
        async move {
            ticks.tick().await;
            let line = match (number, rotate) {
                (0, _) | (_, Some(_)) => snapshot(&servers, &authority, number),
                // A heartbeat.
                (_, None) => Bytes::from_static(b"\n"),
            };
            Some((Ok(Frame::data(line)), (ticks, number + 1)))
        }
    });
    Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
}

fn snapshot(servers: &[Server], authority: &str, number: u64) -> Bytes {
    let mut servers = servers.to_vec();
    for server in &mut servers {
        if let Credential::Bearer { id, token, .. } = &mut server.credential
            && number > 0
        {
            *id = format!("{id}-{number}");
            *token = format!("another-upstream-token-{number:016}").into();
        }
    }
    let snapshot = Snapshot {
        revision: number.to_string(),
        operator_ca: authority.to_owned(),
        fingerprint_key: None,
        servers,
        sent_at: None,
        capabilities: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut line = serde_json::to_vec(&snapshot).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
