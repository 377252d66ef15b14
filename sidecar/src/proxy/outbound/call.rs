//! A request on its way to an MCP server, in a form that can be sent again.
//!
//! A body of a stated length of up to [`message::MAX_BODY`] is read before it is sent, and kept; nearly all MCP
//! messages are that short, and LiteLLM states their length. Everything else streams, and is sent once: to hold back
//! a body without a stated length might hold it back for as long as its client lives.

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, Method, Request, Version};
use http_body::Body;
use hyper::body::Incoming;

use super::message::{self, Read};
use super::{Refused, headers};
use crate::http::request_body::RequestBody;
use crate::proxy::respond::Refusal;
use crate::proxy::routes::token::Token;
use crate::proxy::routes::{Server, Usable};

/// What is sent, and what of it is kept.
pub struct Call {
    method: Method,
    path: PathAndQuery,
    /// All but those that authenticate.
    headers: HeaderMap,
    user: headers::UserPart,
    body: Held,
}

enum Held {
    Whole(Option<Bytes>),
    /// `None` once it was sent.
    Streams(Option<RequestBody>),
}

impl Call {
    /// `path` is the server's own, and `user` what the server gets to know of the user. Nobody's calls of a tool are
    /// refused if `for_nobody`.
    pub async fn hold(
        server: &Server,
        usable: &Usable,
        request: Request<Incoming>,
        path: PathAndQuery,
        user: headers::UserPart,
        for_nobody: bool,
    ) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        let must_know = for_nobody && parts.method == Method::POST;
        let body = match must_know || is_short(&body) {
            true => read(server, body, must_know).await?,
            false => Held::Streams(Some(RequestBody::stream(body))),
        };
        let mut headers = parts.headers;
        headers::prepare(&mut headers, usable, &user);
        Ok(Self {
            method: parts.method,
            path,
            headers,
            user,
            body,
        })
    }

    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// What the server gets to know of the user.
    pub fn user(&self) -> &headers::UserPart {
        &self.user
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Whether it can be sent again.
    pub fn repeats(&self) -> bool {
        matches!(self.body, Held::Whole(_))
    }

    /// The request, with `token`. `None` if it was sent before and does not repeat.
    pub fn request(&mut self, usable: &Usable, token: &Token) -> Option<Request<RequestBody>> {
        let (mut headers, body) = match &mut self.body {
            Held::Whole(bytes) => (self.headers.clone(), RequestBody::Whole(bytes.clone())),
            Held::Streams(body) => (std::mem::take(&mut self.headers), body.take()?),
        };
        let nonce = token.is_bound().then(|| usable.target.nonce()).flatten();
        let nonce = nonce.as_ref().map(|nonce| nonce.as_str());
        token.authorize(&mut headers, &self.method, &usable.url, &self.path, nonce);
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        Some(request)
    }

    /// The body, for the identifier of the message in it: `None` if it was sent and is gone.
    pub fn into_body(self) -> Option<RequestBody> {
        match self.body {
            Held::Whole(bytes) => Some(RequestBody::Whole(bytes)),
            Held::Streams(body) => body,
        }
    }
}

fn is_short(body: &Incoming) -> bool {
    let stated = body.size_hint().exact();
    stated.is_some_and(|bytes| bytes <= message::MAX_BODY as u64)
}

async fn read(server: &Server, body: Incoming, for_nobody: bool) -> Result<Held, Refused> {
    if body.is_end_stream() && !for_nobody {
        return Ok(Held::Whole(None));
    }
    let read = message::read(body).await;
    let calls = for_nobody && message::may_call_a_tool(read.bytes());
    let held = match read {
        Read::Failed => return Err(Refusal::BodyUnreadable.into()),
        Read::Whole(bytes) => Held::Whole((!bytes.is_empty()).then_some(bytes)),
        longer => Held::Streams(longer.into_body()),
    };
    match calls {
        false => Ok(held),
        true => Err(Refused {
            refusal: Refusal::UserContextRequired {
                resource: server.resource.clone(),
            },
            body: match held {
                Held::Whole(bytes) => Some(RequestBody::Whole(bytes)),
                Held::Streams(body) => body,
            },
        }),
    }
}
