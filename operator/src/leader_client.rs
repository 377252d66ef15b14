//! Client of the replica that leads: at the address in the Lease, over HTTP/2, by one connection for its changes and as many as users'
//! tokens take, so that those that an authorization server is slow with keep neither the changes nor the others waiting; by TLS that trusts
//! the operator's own authority alone, and as the operator's own ServiceAccount.

mod error;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures::TryFutureExt;
use mcp_auth_protocol::reasons::NOT_LEADING;
use mcp_auth_protocol::sync::{ExchangeRequest, ExchangeResponse, Problem};
use mcp_auth_protocol::timeouts::{AUTHORIZATION_SERVER, LEAD_CHANGE};
use parking_lot::Mutex;
use reqwest::{Certificate, RequestBuilder, Response, redirect, retry};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::Certificates;
use crate::exchange_limits::EXCHANGES;
use crate::leader::Leader;

pub use error::LeaderError;

/// Path that a replica follows the leader by.
pub const FOLLOW_PATH: &str = "/v1/replicas/follow";
/// Path that a replica passes exchanges of users' tokens on by.
pub const EXCHANGE_PATH: &str = "/v1/replicas/exchange";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Exchanges that one connection has under way, which is a little less than the leader answers at once on it.
const EXCHANGES_BY_CONNECTION: usize = 240;
/// Connections of exchanges at most: as many as [`EXCHANGES`] take, and with the one for changes fewer than a pod may have.
const EXCHANGE_CONNECTIONS: usize = 9;
const _: () = assert!(EXCHANGES_BY_CONNECTION * EXCHANGE_CONNECTIONS >= EXCHANGES.total as usize);
/// How often a connection without traffic is looked at, and how long that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// By how much an answer of the leader is waited for longer than the leader waits for the authorization server.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);
/// Between two attempts while the lead changes.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct LeaderClient(Arc<LeaderClientInner>);

struct LeaderClientInner {
    certificates: Certificates,
    server_name: String,
    token_file: Option<PathBuf>,
    leader: watch::Receiver<Leader>,
    connections: Mutex<Option<Arc<Connections>>>,
}

struct Connections {
    address: SocketAddr,
    authority: String,
    follow: reqwest::Client,
    exchanges: Vec<ExchangeConnection>,
}

struct ExchangeConnection {
    http: reqwest::Client,
    /// Of what it may have under way.
    turns: Arc<Semaphore>,
}

/// An exchange for a sidecar that is connected to a follower, which has looked whether its pod is entitled to it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardedExchange {
    pub namespace: String,
    pub resource: String,
    pub request: ExchangeRequest,
}

impl LeaderClient {
    /// `server_names` are those of the serving certificate. Without a token file the leader cannot be reached.
    pub fn new(
        certificates: Certificates,
        server_names: &[String],
        token_file: Option<PathBuf>,
        leader: watch::Receiver<Leader>,
    ) -> Self {
        let is_dns_name = |name: &&String| name.parse::<std::net::IpAddr>().is_err();
        let server_name = server_names.iter().find(is_dns_name).or(server_names.first());
        Self(Arc::new(LeaderClientInner {
            certificates,
            server_name: server_name.cloned().unwrap_or_default(),
            token_file,
            leader,
            connections: Mutex::default(),
        }))
    }

    /// Who leads, and its changes.
    pub fn leader(&self) -> watch::Receiver<Leader> {
        self.0.leader.clone()
    }

    /// Opens a stream in both directions.
    pub async fn follow(&self, body: reqwest::Body) -> Result<Response, LeaderError> {
        let (connections, url) = self.connections(FOLLOW_PATH)?;
        let request = connections.follow.post(url).bearer_auth(self.token()?);
        served(request.body(body)).await
    }

    /// A user's token. Where the leader does not answer it is the one that `known` has, if any, or else the next leader
    /// is waited for ([`LEAD_CHANGE`]).
    pub async fn exchange(
        &self,
        exchange: &ForwardedExchange,
        known: impl Fn() -> Option<ExchangeResponse>,
    ) -> Result<ExchangeResponse, LeaderError> {
        let deadline = Instant::now() + LEAD_CHANGE;
        loop {
            let answer = async {
                let (connections, url) = self.connections(EXCHANGE_PATH)?;
                let (http, _turn) = connections.for_exchange().await;
                let request = http.post(url).bearer_auth(self.token()?);
                let response = served(request.json(exchange)).await?;
                response.json().map_err(LeaderError::from).await
            };
            let answer = timeout(AUTHORIZATION_SERVER + ANSWER_MARGIN, answer).await;
            let error = match answer.unwrap_or(Err(LeaderError::Silent)) {
                Err(error) if error.is_about_the_lead() => error,
                answer => return answer,
            };
            if let Some(known) = known() {
                return Ok(known);
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(error);
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// To the replica that leads, and the URL there.
    fn connections(&self, path: &str) -> Result<(Arc<Connections>, String), LeaderError> {
        let Leader::Other {
            address: Some(address),
            ..
        } = *self.0.leader.borrow()
        else {
            return Err(LeaderError::NoLeader);
        };
        let (connections, host) = self.0.connections(address)?;
        Ok((connections, format!("https://{host}:{}{path}", address.port())))
    }

    /// The kubelet replaces it, so it is read each time.
    fn token(&self) -> Result<String, LeaderError> {
        let token_file = self.0.token_file.as_ref().ok_or(LeaderError::NoTokenFile)?;
        match std::fs::read_to_string(token_file) {
            Ok(token) => Ok(token.trim().to_owned()),
            Err(error) => Err(LeaderError::TokenUnreadable {
                path: token_file.clone(),
                kind: error.kind(),
            }),
        }
    }
}

impl Connections {
    /// The first that has a turn left: in ordinary times that is always the same.
    async fn for_exchange(&self) -> (&reqwest::Client, OwnedSemaphorePermit) {
        for ExchangeConnection { http, turns } in &self.exchanges {
            if let Ok(turn) = turns.clone().try_acquire_owned() {
                return (http, turn);
            }
        }
        let ExchangeConnection { http, turns } = &self.exchanges[0];
        let turn = turns.clone().acquire_owned().await;
        (http, turn.expect("it is never closed"))
    }
}

impl LeaderClientInner {
    /// The connections to this address, which trust the newest authorities, and the host to ask for.
    fn connections(&self, address: SocketAddr) -> Result<(Arc<Connections>, String), LeaderError> {
        // A certificate that names addresses is verified by the address.
        let by_address = self.server_name.parse::<std::net::IpAddr>().is_ok();
        let host = match (by_address, address) {
            (false, _) => self.server_name.clone(),
            (true, SocketAddr::V4(address)) => address.ip().to_string(),
            (true, SocketAddr::V6(address)) => format!("[{}]", address.ip()),
        };
        let authority = self.certificates.authority();
        let mut connections = self.connections.lock();
        if let Some(known) = &*connections
            && known.address == address
            && known.authority == authority
        {
            return Ok((known.clone(), host));
        }
        let exchanges = (0..EXCHANGE_CONNECTIONS).map(|_| {
            Ok(ExchangeConnection {
                http: self.client(address, &authority)?,
                turns: Arc::new(Semaphore::new(EXCHANGES_BY_CONNECTION)),
            })
        });
        let new = Arc::new(Connections {
            follow: self.client(address, &authority)?,
            exchanges: exchanges.collect::<reqwest::Result<_>>()?,
            address,
            authority,
        });
        *connections = Some(new.clone());
        Ok((new, host))
    }

    /// Of one connection.
    fn client(&self, address: SocketAddr, authority: &str) -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder()
            .tls_certs_only(Certificate::from_pem_bundle(authority.as_bytes())?)
            .https_only(true)
            .resolve(&self.server_name, address)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_prior_knowledge()
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .build()
    }
}

/// The answer, if it is one.
async fn served(request: RequestBuilder) -> Result<Response, LeaderError> {
    let response = request.send().await?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let problem = response.json().await.unwrap_or_else(|_| Problem {
        reason: NOT_LEADING.to_owned(),
        message: format!("the replica that leads answers with {status} and does not say why"),
        server: None,
    });
    Err(LeaderError::Refused { status, problem })
}

#[cfg(test)]
mod tests;
