//! Requests to a port of a pod that may listen on loopback only, by way of the API server.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::{request, response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::task::JoinHandle;

use super::{McpCallError, REQUEST_TIMEOUT, connection_error};
use crate::cluster::Cluster;

const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// A port of a pod, on the pod's own loopback.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodAddress {
    pub namespace: String,
    pub pod: String,
    pub port: u16,
}

pub struct PodPort<'a> {
    cluster: &'a Cluster,
    address: PodAddress,
}

/// Ends with the value.
struct PodConnection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for PodConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<'a> PodPort<'a> {
    pub fn new(cluster: &'a Cluster, address: PodAddress) -> Self {
        Self { cluster, address }
    }

    /// One request on a connection of its own, and the whole answer. `what` is asked, as messages name it.
    pub async fn send(
        &self,
        what: &'static str,
        request: request::Builder,
        body: String,
    ) -> Result<(response::Parts, Bytes), McpCallError> {
        let host = format!("127.0.0.1:{}", self.address.port);
        let request = request.header(HOST, host).body(Full::new(Bytes::from(body)));
        let request = request.map_err(connection_error)?;
        let exchange = async {
            let mut connection = self.connect().await?;
            let response = connection.sender.send_request(request).await;
            let (head, body) = response.map_err(connection_error)?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok::<_, McpCallError>((head, body.map_err(connection_error)?.to_bytes()))
        };
        tokio::time::timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| McpCallError::Silent { what })?
    }

    async fn connect(&self) -> Result<PodConnection, McpCallError> {
        let PodAddress { namespace, pod, port } = &self.address;
        let api = Api::<Pod>::namespaced(self.cluster.client.clone(), namespace);
        let action = format!("forward a port of pods in the namespace {namespace}");
        let ports = [*port];
        let mut forwarder = self.cluster.answer(&action, api.portforward(pod, &ports)).await?;
        let stream = forwarder
            .take_stream(*port)
            .ok_or_else(|| connection_error("no stream for the port"))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(connection_error)?;
        let driver = tokio::spawn(async move {
            // How it ends, the request says.
            let _ = connection.await;
            drop(forwarder);
        });
        Ok(PodConnection { sender, driver })
    }
}
