//! What a server answers to a request that is sent once, and what is remembered of that.

use std::time::Instant;

use http::header::{HeaderMap, SET_COOKIE};
use http::{Method, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use mcp_auth_http_auth::clock_offset;
use mcp_auth_protocol::sync::Transport;

use super::Outbound;
use super::auth_outcome::{self, AuthOutcome, auth_outcome};
use super::call::Call;
use super::error::{OutboundError, send_error};
use super::replayable_request::ReplayableRequest;
use super::response::prepare_response;
use super::token_rejection::TokenRejection;
use super::token_selection::SelectedToken;
use crate::proxy::audit;
use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{SESSION_HEADER, SessionId, UsableServer};

/// How the server answered, as far as the token is concerned.
pub(super) enum ServerAnswer {
    /// The token was accepted; the answer is for the client.
    Accepted(Response<ResponseBody>),
    Rejected(TokenRejection),
    /// The same token is to be sent again, in a proof with the nonce that came along.
    NonceRequired,
    /// The same token is to be sent again, in a proof of the time that the server's clock shows: that one is known only now.
    ClockCorrected,
    /// None: a kept connection ended. The request may be sent once more.
    ConnectionEnded(OutboundError),
}

impl Outbound {
    /// Sends the request once.
    pub(super) async fn send(
        &self,
        worker: usize,
        replayable: &mut ReplayableRequest,
        selected: &SelectedToken,
        call: &mut Call,
    ) -> Result<ServerAnswer, OutboundError> {
        let server = &selected.server;
        let usable = server.require_usable()?;
        let begins_session = replayable.begins_session(usable);
        let request = replayable
            .request(usable, &selected.token)
            .ok_or(ProxyError::BodyUnreadable)?;
        let carried = self.context_checks.carried(request.headers());
        let is_of_check = carried.is_some();
        let sent = Instant::now();
        let answer = usable.target.send(worker, request).await;
        call.upstream_time += sent.elapsed();
        if let Some(carried) = carried {
            let method = replayable.whole_body().and_then(audit::method);
            let status = answer.as_ref().ok().map(|response| response.status().as_u16());
            let id = call.id.to_string();
            self.context_checks
                .record(*carried, id, &server.name, method, status);
        }
        let response = match answer {
            Ok(response) => response,
            Err(error) if error.kept_connection_ended && replayable.is_idempotent() => {
                return Ok(ServerAnswer::ConnectionEnded(send_error(server, *error)));
            }
            Err(error) => {
                usable.reachability.record_failure(&error.cause);
                return Err(send_error(server, *error));
            }
        };
        usable
            .reachability
            .record_answer(response.status(), begins_session);
        if selected.token.is_bound()
            && let Some(nonce) = auth_outcome::nonce(response.headers())
        {
            usable.target.set_nonce(nonce.to_owned());
        }
        let clock_corrected = selected.token.is_bound() && learn_clock(usable, response.headers(), sent);
        match auth_outcome(response.status(), response.headers(), selected.token.is_bound()) {
            AuthOutcome::Accepted => {
                if !response.status().is_server_error() {
                    self.token_selector.record_accepted(selected);
                }
                record_session(usable, replayable, response.headers());
                if replayable.session().is_none()
                    && let Some(session) = response.headers().get(SESSION_HEADER)
                {
                    self.refused_sessions.opened(&server.name, session);
                }
                let response = prepare_response(server, usable, replayable, response)?;
                Ok(ServerAnswer::Accepted(response))
            }
            // Another token would not help: it is the test user that the server refuses. The operator is to request none.
            AuthOutcome::Unauthorized if is_of_check => {
                Err(selected.to_error(StatusCode::UNAUTHORIZED).into())
            }
            AuthOutcome::Unauthorized if clock_corrected => Ok(ServerAnswer::ClockCorrected),
            AuthOutcome::Unauthorized => Ok(ServerAnswer::Rejected(TokenRejection::Unauthorized)),
            AuthOutcome::InsufficientScope(scopes) => {
                // The token is valid, though not for this request.
                self.token_selector.record_accepted(selected);
                match is_of_check {
                    true => Err(selected.to_error(StatusCode::FORBIDDEN).into()),
                    false => Ok(ServerAnswer::Rejected(TokenRejection::InsufficientScope(scopes))),
                }
            }
            AuthOutcome::NonceRequired => Ok(ServerAnswer::NonceRequired),
            AuthOutcome::OtherChallenge => Err(selected.to_error(StatusCode::FORBIDDEN).into()),
        }
    }
}

/// Whether the answer says that the server's clock is another than was known when its proof was made.
fn learn_clock(usable: &UsableServer, answer: &HeaderMap, sent: Instant) -> bool {
    let Some(date) = clock_offset::date(answer) else {
        return false;
    };
    let received_at = Timestamp::now();
    let took = SignedDuration::try_from(sent.elapsed()).unwrap_or(SignedDuration::MAX);
    let sent_at = received_at.saturating_sub(took).unwrap_or(Timestamp::MIN);
    usable.target.clock_offset().learn(date, sent_at, received_at)
}

/// Keeps what later requests of the session need.
fn record_session(usable: &UsableServer, request: &ReplayableRequest, answer: &HeaderMap) {
    let opened = match usable.transport {
        Transport::StreamableHttp => SessionId::of_answer(answer),
        // Its stream names it later.
        Transport::Sse if request.method() == Method::GET => return,
        Transport::Sse => None,
    };
    if request.is_for_nobody()
        && request.session().is_none()
        && let Some(session) = &opened
    {
        usable.sessions.record_nobodys(session);
    }
    // Looked for first: hardly any answer has one.
    if answer.contains_key(SET_COOKIE)
        && let Some(session) = opened.as_ref().or(request.session())
    {
        let set_cookies = answer.get_all(SET_COOKIE).iter();
        let names = usable.affinity_names();
        usable
            .sessions
            .record_affinity_cookies(session, set_cookies, names);
    }
}
