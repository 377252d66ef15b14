//! A connection to a port of a pod that only listens on loopback, by way of the API server.

use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::task::JoinHandle;

use super::McpCallError;
use super::connection_error;
use crate::cluster::Cluster;
use http_body_util::Full;

/// A port of a pod, on the pod's own loopback.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodAddress {
    pub namespace: String,
    pub pod: String,
    pub port: u16,
}

pub struct PodPort<'a> {
    cluster: &'a Cluster,
    address: &'a PodAddress,
}

/// Ends with the value.
pub struct PodConnection {
    pub sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for PodConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<'a> PodPort<'a> {
    pub fn new(cluster: &'a Cluster, address: &'a PodAddress) -> Self {
        Self { cluster, address }
    }

    /// As the Host header names it. The sidecar takes loopback only.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.address.port)
    }

    pub async fn connect(&self) -> Result<PodConnection, McpCallError> {
        let PodAddress { namespace, pod, port } = self.address;
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
