//! User guard: what may be asked of an MCP server for nobody. Where a server demands a user, by `userContext:
//! Required` or a token exchange, a request without one may discover what the server offers and nothing else:
//! it would act with the service's own rights. A user context that cannot be opened is worse than none: the
//! request was made for a user, so a call is never sent as if it were nobody's.

use http::Method;
use http::uri::PathAndQuery;
use mcp_auth_protocol::sync::{Transport, UserContext};

use super::message::MessageKind;
use crate::proxy::error::ProxyError;
use crate::proxy::routes::{McpServer, SessionId, UsableServer};
use crate::proxy::user_context::seal::OpenError;

/// Why a request is made for nobody that the server would take for a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MissingUser {
    /// The server demands a user, and the request carries none, or nothing of one that is for this server.
    None { context: Option<OpenError> },
    /// The server does without a user, but the request was made for one.
    Invalid(OpenError),
}

impl MissingUser {
    /// `has_user`: the request carries of a user what the server demands. `context` is why there is no context though
    /// the request carries one.
    pub fn find(usable: &UsableServer, has_user: bool, context: Option<OpenError>) -> Option<Self> {
        let demands_user = usable.exchange.is_some() || usable.user_context == UserContext::Required;
        let takes_anything = usable.exchange.is_some() || !usable.allowed.is_empty();
        match context {
            _ if demands_user => (!has_user).then_some(Self::None { context }),
            Some(error) if takes_anything => Some(Self::Invalid(error)),
            _ => None,
        }
    }

    /// The error for the request, unless it may be sent for nobody. `kind` is `None` where the request has no
    /// messages; `path` is that at the server, and `session` what names the session that the request is in.
    pub fn check(
        self,
        server: &McpServer,
        usable: &UsableServer,
        method: &Method,
        kind: Option<MessageKind>,
        path: &PathAndQuery,
        session: Option<&SessionId>,
    ) -> Result<(), ProxyError> {
        let is_nobodys = session.is_some_and(|id| usable.sessions.is_nobodys(id));
        let is_allowed = match (self, kind) {
            (_, Some(MessageKind::Discovery)) => true,
            (Self::None { .. }, Some(MessageKind::Response)) => session.is_none() || is_nobodys,
            (Self::None { .. }, Some(MessageKind::Call)) => false,
            // With SSE this is how a session begins.
            (Self::None { .. }, None) if usable.transport == Transport::Sse => {
                method == Method::GET && *path == usable.endpoint
            }
            (Self::None { .. }, None) => is_nobodys && matches!(*method, Method::GET | Method::DELETE),
            (Self::Invalid(_), kind) => kind != Some(MessageKind::Call),
        };
        let resource = || server.resource.clone();
        match self {
            _ if is_allowed => Ok(()),
            Self::None { context: None } => Err(ProxyError::UserContextRequired { resource: resource() }),
            Self::None { context: Some(why) } | Self::Invalid(why) => Err(ProxyError::UserContextInvalid {
                resource: resource(),
                why,
            }),
        }
    }
}
