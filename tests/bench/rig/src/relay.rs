//! Stands in for LiteLLM between the sidecar's halves: reads a request whole and sends it on, with the
//! headers that LiteLLM would pass, over kept connections. Paths that end in `echo` it answers itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::request::{OUTBOUND_SECRET, OUTBOUND_SECRET_HEADER};
use crate::serve::{Body, serve};
use crate::upstream::echo;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    port: u16,
    /// The sidecar's outbound half.
    #[arg(long)]
    to: SocketAddr,
}

type Idle = Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>;

pub async fn run(args: Args) -> anyhow::Result<()> {
    let idle = Idle::default();
    serve(args.port, None, move |request: Request<Incoming>| {
        let idle = idle.clone();
        async move {
            if request.uri().path().ends_with("/echo") {
                return echo(request).await;
            }
            forward(args.to, &idle, request).await.unwrap_or_else(|_| {
                let mut response = Response::new(BodyExt::boxed_unsync(Empty::new()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            })
        }
    })
    .await
}

async fn forward(to: SocketAddr, idle: &Idle, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    for name in [CONNECTION, CONTENT_LENGTH, COOKIE] {
        parts.headers.remove(name);
    }
    parts.headers.insert(HOST, HeaderValue::try_from(to.to_string())?);
    // The inbound half has removed it.
    parts
        .headers
        .insert(OUTBOUND_SECRET_HEADER, HeaderValue::from_static(OUTBOUND_SECRET));
    let mut sender = connection(to, idle).await?;
    let response = sender
        .send_request(Request::from_parts(parts, Full::new(body)))
        .await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    lock(idle).push(sender);
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = parts.status;
    Ok(response)
}

async fn connection(to: SocketAddr, idle: &Idle) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    loop {
        let kept = lock(idle).pop();
        let Some(mut kept) = kept else { break };
        if kept.ready().await.is_ok() {
            return Ok(kept);
        }
    }
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
