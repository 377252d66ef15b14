//! Sends one form and gets its answer: which client secret is tried first, and what is sent a second time.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use parking_lot::Mutex;
use url::Url;

use super::Client;
use crate::Error;
use crate::discovery::endpoints::Endpoints;
use crate::error::ErrorCode;
use crate::redact::Redactor;
use crate::token_request::client_auth::{self, ClientAuth, SecretChoice};
use crate::token_request::form::{self, Form};
use crate::token_request::response;
use crate::transport::Answer;

/// A form on its way to an endpoint.
pub(crate) struct OutgoingForm<'a> {
    pub endpoint: &'a Url,
    pub endpoints: &'a Endpoints,
    pub form: Form,
    /// Keeps back what the form holds.
    pub redactor: Redactor,
    /// Whether a DPoP proof goes with it.
    pub with_proof: bool,
}

/// What came of it.
pub(crate) struct FormReply {
    answer: Answer,
    redactor: Redactor,
    secret: SecretChoice,
    both_refused: bool,
}

/// What the answers so far taught. Shared by the clones of a client.
#[derive(Debug, Default)]
pub(crate) struct ServerHints {
    /// It was the alternate secret that was last taken.
    alternate_taken: AtomicBool,
    /// The newest that the server named (RFC 9449 section 8.2).
    nonce: Mutex<Option<String>>,
}

impl Client {
    /// Sends a form, with the other client secret too where one is refused.
    pub(crate) async fn send_form(&self, outgoing: OutgoingForm<'_>) -> Result<FormReply, Error> {
        let has_two =
            client_auth::secrets(&self.registration).is_some_and(|secrets| secrets.alternate.is_some());
        let (one, other) = if has_two && self.hints.alternate_taken.load(Ordering::Relaxed) {
            (SecretChoice::Alternate, SecretChoice::First)
        } else {
            (SecretChoice::First, SecretChoice::Alternate)
        };
        let reply = self.send_with_nonce(&outgoing, one).await?;
        if !has_two || !reply.refuses_client() {
            return Ok(reply);
        }
        let second = self.send_with_nonce(&outgoing, other).await?;
        if second.refuses_client() {
            let first = if one == SecretChoice::First { reply } else { second };
            return Ok(FormReply {
                both_refused: true,
                ..first
            });
        }
        if second.answer.status.is_success() {
            self.hints
                .alternate_taken
                .store(other == SecretChoice::Alternate, Ordering::Relaxed);
        }
        Ok(second)
    }

    /// Sends it by one secret, with the nonce too where the server demands one (RFC 9449 section 8).
    async fn send_with_nonce(
        &self,
        outgoing: &OutgoingForm<'_>,
        secret: SecretChoice,
    ) -> Result<FormReply, Error> {
        let reply = self.send_once(outgoing, secret).await?;
        let demanded = outgoing.with_proof && self.proof_key.is_some() && reply.demands_nonce();
        if demanded {
            self.send_once(outgoing, secret).await
        } else {
            Ok(reply)
        }
    }

    /// Each time with an assertion and a proof of its own: a server takes none twice.
    async fn send_once(&self, outgoing: &OutgoingForm<'_>, secret: SecretChoice) -> Result<FormReply, Error> {
        let now = self.clock.now();
        if let Some(certificate) = &self.certificate {
            certificate.check(now)?;
            if outgoing.endpoint.scheme() != "https" {
                return Err(Error::InvalidUrl {
                    problem: "is plain http, where no client certificate can be shown",
                });
            }
        }
        let limit = self.transport.limits().deadline;
        let client_auth = ClientAuth::of(&self.registration, outgoing.endpoints, secret, now, limit).await?;
        let key = self.proof_key.as_ref().filter(|_| outgoing.with_proof);
        let proof = key.map(|key| {
            let nonce = self.hints.nonce();
            key.proof(&Method::POST, outgoing.endpoint, None, nonce.as_deref(), now)
        });
        let mut redactor = client_auth::with_request_secrets(&client_auth, outgoing.redactor.clone());
        if let Some(proof) = &proof {
            redactor = redactor.hide(proof);
        }
        let request = form::build(&outgoing.form, outgoing.endpoint, &client_auth, proof.as_deref())?;
        let answer = self.transport.send(request).await?;
        if let Some(nonce) = &answer.dpop_nonce {
            self.hints.remember(nonce);
        }
        Ok(FormReply {
            answer,
            redactor,
            secret,
            both_refused: false,
        })
    }
}

impl FormReply {
    /// What `reader` makes of the answer, and whether the alternate secret brought it.
    pub fn read<T>(
        self,
        reader: impl FnOnce(Answer, &Redactor) -> Result<T, Error>,
    ) -> Result<(T, bool), Error> {
        match reader(self.answer, &self.redactor) {
            Ok(read) => Ok((read, self.secret == SecretChoice::Alternate)),
            Err(Error::Rejected(rejection)) if self.both_refused => Err(Error::BothSecretsRefused(rejection)),
            Err(error) => Err(error),
        }
    }

    fn refuses_client(&self) -> bool {
        response::rejection(&self.answer).is_some_and(|rejection| rejection.is_of_client())
    }

    /// Whether the server demands a nonce, and names one.
    fn demands_nonce(&self) -> bool {
        self.answer.dpop_nonce.is_some()
            && response::rejection(&self.answer)
                .is_some_and(|rejection| rejection.code == ErrorCode::UseDpopNonce)
    }
}

impl ServerHints {
    fn nonce(&self) -> Option<String> {
        self.nonce.lock().clone()
    }

    fn remember(&self, nonce: &str) {
        *self.nonce.lock() = Some(nonce.to_owned());
    }
}
