//! The one HTTP/2 connection that all exchanges share, and the one attempt to open it: whoever comes meanwhile waits
//! for that attempt, and shares its failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use mcp_auth_protocol::sync::Problem;
use tokio::time::timeout;

use super::told;
use crate::control::sync_client::{Connection, Dial, Endpoint, FollowError, OperatorCa};

/// A peer that is gone without a word is found out after twice this, while anybody waits for an answer. How long it
/// takes to answer says nothing: other exchanges run on the same connection.
const PING: Duration = Duration::from_secs(2);

pub struct Link<D> {
    pub endpoint: Endpoint,
    operator_ca: OperatorCa,
    /// For TCP and TLS together.
    connect: Duration,
    dial: D,
    current: Mutex<Option<Current>>,
}

struct Current {
    opening: Opening,
    /// What it is verified by. With other certificates to trust, it is not used any more.
    trusted: Arc<str>,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, Problem>>>;

impl<D: Dial + 'static> Link<D> {
    pub fn new(endpoint: Endpoint, operator_ca: OperatorCa, connect: Duration, dial: D) -> Self {
        Self {
            endpoint,
            operator_ca,
            connect,
            dial,
            current: Mutex::default(),
        }
    }

    /// The connection that is open, or a new one.
    pub async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>, Problem> {
        self.opening().await
    }

    /// Nobody begins anything on this connection any more. What runs on it goes on.
    pub fn leave(&self, left: &Arc<Connection>) {
        let mut current = self.lock();
        let opened = current.as_ref().and_then(|current| current.opening.peek());
        if opened.is_some_and(|opened| matches!(opened, Ok(opened) if Arc::ptr_eq(opened, left))) {
            *current = None;
        }
    }

    fn opening(self: &Arc<Self>) -> Opening {
        let trusted = self.operator_ca.get();
        let mut current = self.lock();
        if let Some(known) = &*current
            && known.trusted == trusted
            && known.is_of_use()
        {
            return known.opening.clone();
        }
        let opening = open(self.clone(), trusted.clone()).boxed().shared();
        // It is not to stand still when who began it goes away.
        tokio::spawn(opening.clone());
        *current = Some(Current {
            opening: opening.clone(),
            trusted,
        });
        opening
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn is_of_use(&self) -> bool {
        match self.opening.peek() {
            None => true,
            Some(Ok(connection)) => !connection.sender.is_closed(),
            Some(Err(_)) => false,
        }
    }
}

async fn open<D: Dial>(link: Arc<Link<D>>, trusted: Arc<str>) -> Result<Arc<Connection>, Problem> {
    let opening = Connection::open(&link.dial, &link.endpoint, &trusted, Some(PING));
    let opened = timeout(link.connect, opening).await;
    let opened = opened.unwrap_or_else(|_| {
        Err(FollowError::ConnectTimeout {
            address: link.endpoint.to_string(),
            seconds: link.connect.as_secs(),
        })
    });
    opened.map(Arc::new).map_err(|error| told(&error))
}
