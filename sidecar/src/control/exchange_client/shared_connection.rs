//! Shared connection: the one HTTP/2 connection that all token exchanges use, and the one attempt to open it:
//! an exchange that begins meanwhile waits for that attempt, and shares its failure.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use mcp_auth_protocol::sync::Problem;
use tokio::time::timeout;

use crate::control::sync_client::{Connection, Connector, Endpoint, OperatorCa, SyncError};

/// A peer that vanished without closing the connection is detected after twice this, while an answer is
/// awaited. A slow answer says nothing about the peer: other exchanges run on the same connection.
const PING_INTERVAL: Duration = Duration::from_secs(2);

pub struct SharedConnection<D> {
    pub endpoint: Endpoint,
    operator_ca: OperatorCa,
    /// For TCP and TLS together.
    connect: Duration,
    connector: D,
    current: Mutex<Option<CurrentConnection>>,
}

struct CurrentConnection {
    opening: ConnectAttempt,
    /// What it is verified by. With other certificates to trust, it is not used any more.
    trusted: Arc<str>,
}

type ConnectAttempt = Shared<BoxFuture<'static, Result<Arc<Connection>, Problem>>>;

impl<D: Connector + 'static> SharedConnection<D> {
    pub fn new(endpoint: Endpoint, operator_ca: OperatorCa, connect: Duration, connector: D) -> Self {
        Self {
            endpoint,
            operator_ca,
            connect,
            connector,
            current: Mutex::default(),
        }
    }

    /// The connection that is open, or a new one.
    pub async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Problem> {
        self.opening().await
    }

    /// No request begins on this connection any more. Those under way go on.
    pub fn retire(&self, retired: &Arc<Connection>) {
        let mut current = self.lock();
        let opened = current.as_ref().and_then(|current| current.opening.peek());
        if opened.is_some_and(|opened| matches!(opened, Ok(opened) if Arc::ptr_eq(opened, retired))) {
            *current = None;
        }
    }

    fn opening(self: &Arc<Self>) -> ConnectAttempt {
        let trusted = self.operator_ca.get();
        let mut current = self.lock();
        if let Some(connection) = &*current
            && connection.trusted == trusted
            && connection.is_usable()
        {
            return connection.opening.clone();
        }
        let opening = open(self.clone(), trusted.clone()).boxed().shared();
        // A task drives it on when the exchange that began it is dropped.
        tokio::spawn(opening.clone());
        *current = Some(CurrentConnection {
            opening: opening.clone(),
            trusted,
        });
        opening
    }

    fn lock(&self) -> MutexGuard<'_, Option<CurrentConnection>> {
        self.current.lock()
    }
}

impl CurrentConnection {
    fn is_usable(&self) -> bool {
        match self.opening.peek() {
            None => true,
            Some(Ok(connection)) => !connection.sender.is_closed(),
            Some(Err(_)) => false,
        }
    }
}

async fn open<D: Connector>(
    connection: Arc<SharedConnection<D>>,
    trusted: Arc<str>,
) -> Result<Arc<Connection>, Problem> {
    let opening = Connection::open(
        &connection.connector,
        &connection.endpoint,
        &trusted,
        PING_INTERVAL,
    );
    let opened = timeout(connection.connect, opening).await;
    let opened = opened.unwrap_or_else(|_| {
        Err(SyncError::ConnectTimeout {
            address: connection.endpoint.to_string(),
            seconds: connection.connect.as_secs(),
        })
    });
    opened.map(Arc::new).map_err(|error| error.to_problem())
}
