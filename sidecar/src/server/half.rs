//! The half of the data path that a listener belongs to, as connections see it.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::http::body_progress::BodyProgress;
use crate::http::hop_by_hop;
use crate::proxy::error::ProxyError;
use crate::proxy::inbound::Inbound;
use crate::proxy::inbound::client_address::ClientPeer;
use crate::proxy::outbound::Outbound;
use crate::proxy::outbound::headers::strip_response;
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
        progress: &Arc<BodyProgress>,
    ) -> Response<ResponseBody> {
        match self {
            Self::Inbound(inbound) => inbound.answer(worker, peer, request, progress).await,
            // LiteLLM is the client, and shows that it is before its body is waited for.
            Self::Outbound(outbound) => outbound.answer(worker, request).await,
        }
    }

    /// Removes from an interim answer the headers that the client is not to see.
    pub fn strip_interim_answer(&self, headers: &mut HeaderMap) {
        match self {
            Self::Inbound(_) => hop_by_hop::strip_response(headers, |name| name == CONTENT_LENGTH),
            Self::Outbound(_) => {
                strip_response(headers);
                hop_by_hop::remove(headers, |name| name == CONTENT_LENGTH || name == LOCATION);
            }
        }
    }

    /// Answers with an error without looking at the request's body.
    pub fn refuse(&self, method: &Method, error: &ProxyError) -> Response<ResponseBody> {
        match self {
            Self::Inbound(inbound) => inbound.refuse(error),
            Self::Outbound(outbound) => outbound.refuse(method, error),
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

    /// Returns when clients had time to find another pod. LiteLLM gets its SIGTERM next, and a client that keeps a
    /// connection without using it would send its next request to a pod that cannot answer any more: connections that
    /// have had a request take no more of them from then on. Where one has had none yet, a request may be under way, and
    /// its answer closes the connection.
    pub async fn drained(&self) {
        match self {
            Self::Inbound(inbound) => inbound.drained().await,
            Self::Outbound(_) => std::future::pending().await,
        }
    }
}
