//! The half of the data path that a listener belongs to, as connections see it.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::proxy::error::ProxyError;
use crate::proxy::inbound::Inbound;
use crate::proxy::inbound::client_address::ClientPeer;
use crate::proxy::outbound::Outbound;
use crate::proxy::response_body::ResponseBody;

#[derive(Clone)]
pub enum Half {
    Inbound(Arc<Inbound>),
    Outbound(Arc<Outbound>),
}

impl Half {
    pub fn count_unparsed(&self, reason: &'static str) {
        match self {
            Self::Inbound(inbound) => inbound.count_unparsed(reason),
            Self::Outbound(outbound) => outbound.count_unparsed(reason),
        }
    }

    pub async fn answer(
        &self,
        worker: usize,
        peer: &ClientPeer,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        match self {
            Self::Inbound(inbound) => inbound.answer(worker, peer, request).await,
            Self::Outbound(outbound) => outbound.answer(worker, request).await,
        }
    }

    /// Answers with an error without looking at the request's body.
    pub fn refuse(&self, request: &Request<Incoming>, error: &ProxyError) -> Response<ResponseBody> {
        match self {
            Self::Inbound(inbound) => inbound.refuse(error),
            Self::Outbound(outbound) => outbound.refuse(request, error),
        }
    }

    /// Whether clients shall find another pod.
    pub fn is_draining(&self) -> bool {
        match self {
            Self::Inbound(inbound) => inbound.is_draining(),
            // LiteLLM is the client, and leaves with us.
            Self::Outbound(_) => false,
        }
    }

    /// Returns when a connection is to take no more requests: at the end, and before that when the time to
    /// drain is over. LiteLLM gets its SIGTERM next, and a client that keeps a connection without using it
    /// would send its next request to a pod that cannot answer any more. Where `has_request` is not true yet,
    /// a request may be under way, and its answer closes the connection.
    pub async fn leaving(
        &self,
        stopped: &mut watch::Receiver<Option<Duration>>,
        has_request: impl FnOnce() -> bool,
    ) {
        let drained = async {
            match self {
                Self::Inbound(inbound) => inbound.drained().await,
                Self::Outbound(_) => std::future::pending().await,
            }
            if !has_request() {
                std::future::pending().await
            }
        };
        tokio::select! {
            _ = stopped.wait_for(Option::is_some) => {}
            () = drained => {}
        }
    }
}
