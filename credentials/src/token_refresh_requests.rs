//! Token refresh requests of sidecars, from sync to the token sources: an MCP server rejected a token, or
//! demands scopes that it lacks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mcp_auth_protocol::sync::RejectionCause;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::resource_ref::ResourceRef;

/// Longest identifier of a token, in bytes. Ours are a few dozen.
const MAX_TOKEN_BYTES: usize = 128;
/// All scopes that one request demands, in bytes.
const MAX_SCOPES_BYTES: usize = 1024;

/// One sidecar's report on the token in use. Many that say the same are one request in the end: the token
/// source looks at the token's identifier.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRefreshRequest {
    pub resource: ResourceRef,
    /// Identifier of the rejected token.
    pub token: String,
    pub why: RejectionCause,
}

impl TokenRefreshRequest {
    /// Neither a sidecar nor an MCP server makes others; a pod may make up any.
    fn is_sensible(&self) -> bool {
        let scopes: usize = match &self.why {
            RejectionCause::Unauthorized => 0,
            RejectionCause::InsufficientScope(scopes) => scopes.iter().map(|scope| scope.len() + 1).sum(),
        };
        self.token.len() <= MAX_TOKEN_BYTES && scopes <= MAX_SCOPES_BYTES
    }
}

/// The sending half. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct TokenRefreshRequests(Arc<Waiting>);

/// The receiving half: at most one request for each resource, the newest, however long there is no leader to pass them on to.
pub struct TokenRefreshQueue(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    requests: Mutex<Requests>,
    arrived: Notify,
}

#[derive(Default)]
struct Requests {
    /// Each resource of `newest` once, the one that has waited longest first.
    order: VecDeque<ResourceRef>,
    newest: HashMap<ResourceRef, TokenRefreshRequest>,
}

impl TokenRefreshRequests {
    pub fn new() -> (Self, TokenRefreshQueue) {
        let waiting = Arc::<Waiting>::default();
        (Self(waiting.clone()), TokenRefreshQueue(waiting))
    }

    /// Takes the place of one for the same resource that waits. A sidecar whose request is lost makes it again when the token is
    /// rejected again.
    pub fn send(&self, request: TokenRefreshRequest) {
        if !request.is_sensible() {
            return;
        }
        let resource = request.resource.clone();
        let mut requests = self.0.requests.lock();
        if requests.newest.insert(resource.clone(), request).is_none() {
            requests.order.push_back(resource);
        }
        drop(requests);
        self.0.arrived.notify_one();
    }
}

impl TokenRefreshQueue {
    /// The next one. Dropping the future loses none.
    pub async fn recv(&mut self) -> TokenRefreshRequest {
        loop {
            if let Some(request) = self.next() {
                return request;
            }
            self.0.arrived.notified().await;
        }
    }

    fn next(&mut self) -> Option<TokenRefreshRequest> {
        let mut requests = self.0.requests.lock();
        let resource = requests.order.pop_front()?;
        requests.newest.remove(&resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(resource: &str, token: String, scopes: Option<String>) -> TokenRefreshRequest {
        TokenRefreshRequest {
            resource: ResourceRef {
                namespace: "apps".into(),
                name: resource.into(),
            },
            token,
            why: match scopes {
                None => RejectionCause::Unauthorized,
                Some(scope) => RejectionCause::InsufficientScope(vec![scope]),
            },
        }
    }

    #[tokio::test]
    async fn requests_that_nobody_takes_are_one_for_each_resource_whatever_pods_report() {
        let (requests, mut queue) = TokenRefreshRequests::new();
        for number in 0..10_000 {
            let resource = ["tools", "files", "mail"][number % 3];
            requests.send(request(resource, number.to_string(), None));
        }
        requests.send(request("tools", "x".repeat(200 * 1024), None));
        requests.send(request("files", "1".into(), Some("x".repeat(200 * 1024))));
        requests.send(request("mail", "1".into(), Some("read".into())));
        let taken = [queue.recv().await, queue.recv().await, queue.recv().await];
        assert_eq!(
            taken,
            [
                request("tools", "9999".into(), None),
                request("files", "9997".into(), None),
                request("mail", "1".into(), Some("read".into())),
            ]
        );
        assert_eq!(queue.next(), None);
        requests.send(request("tools", "1".into(), None));
        assert_eq!(queue.recv().await.token, "1", "the next one is not lost");
    }
}
