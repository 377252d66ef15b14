//! One form to its answer: which client secret is tried first, and what is sent a second time.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use parking_lot::Mutex;
use url::Url;

use super::Client;
use crate::Error;
use crate::discovery::endpoints::Endpoints;
use crate::error::Code;
use crate::redact::Quote;
use crate::token_request::client_auth::{self, Identity, Which};
use crate::token_request::form::{self, Form};
use crate::token_request::response;
use crate::transport::Answer;

/// A form on its way to an endpoint.
pub(crate) struct Call<'a> {
    pub endpoint: &'a Url,
    pub endpoints: &'a Endpoints,
    pub form: Form,
    /// Keeps back what the form holds.
    pub quote: Quote,
    /// Whether a DPoP proof goes with it.
    pub proven: bool,
}

/// What came of it.
pub(crate) struct Reply {
    answer: Answer,
    quote: Quote,
    which: Which,
    both_refused: bool,
}

/// What the answers so far taught. Shared by the clones of a client.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// It was the alternate secret that was last taken.
    alternate_taken: AtomicBool,
    /// The newest that the server named (RFC 9449 section 8.2).
    nonce: Mutex<Option<String>>,
}

impl Client {
    /// Sends a form, with the other client secret too where one is refused.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Reply, Error> {
        let has_two =
            client_auth::secrets(&self.registration).is_some_and(|secrets| secrets.alternate.is_some());
        let (one, other) = if has_two && self.memory.alternate_taken.load(Ordering::Relaxed) {
            (Which::Alternate, Which::First)
        } else {
            (Which::First, Which::Alternate)
        };
        let reply = self.attempt(&call, one).await?;
        if !has_two || !reply.refuses_client() {
            return Ok(reply);
        }
        let second = self.attempt(&call, other).await?;
        if second.refuses_client() {
            let first = if one == Which::First { reply } else { second };
            return Ok(Reply {
                both_refused: true,
                ..first
            });
        }
        if second.answer.status.is_success() {
            self.memory
                .alternate_taken
                .store(other == Which::Alternate, Ordering::Relaxed);
        }
        Ok(second)
    }

    /// Sends it by one secret, with the nonce too where the server demands one (RFC 9449 section 8).
    async fn attempt(&self, call: &Call<'_>, which: Which) -> Result<Reply, Error> {
        let reply = self.send(call, which).await?;
        let demanded = call.proven && self.proof_key.is_some() && reply.demands_nonce();
        if demanded {
            self.send(call, which).await
        } else {
            Ok(reply)
        }
    }

    /// Each time with an assertion and a proof of its own: a server takes none twice.
    async fn send(&self, call: &Call<'_>, which: Which) -> Result<Reply, Error> {
        let now = self.clock.now();
        if let Some(certificate) = &self.certificate {
            certificate.check(now)?;
            if call.endpoint.scheme() != "https" {
                return Err(Error::InvalidUrl {
                    problem: "is plain http, where no client certificate can be shown",
                });
            }
        }
        let limit = self.transport.limits().deadline;
        let identity = Identity::of(&self.registration, call.endpoints, which, now, limit).await?;
        let key = self.proof_key.as_ref().filter(|_| call.proven);
        let proof = key.map(|key| {
            let nonce = self.memory.nonce();
            key.proof(&Method::POST, call.endpoint, None, nonce.as_deref(), now)
        });
        let mut quote = client_auth::quote_of(&identity, call.quote.clone());
        if let Some(proof) = &proof {
            quote = quote.and(proof);
        }
        let request = form::build(&call.form, call.endpoint, &identity, proof.as_deref())?;
        let answer = self.transport.send(request).await?;
        if let Some(nonce) = &answer.dpop_nonce {
            self.memory.remember(nonce);
        }
        Ok(Reply {
            answer,
            quote,
            which,
            both_refused: false,
        })
    }
}

impl Reply {
    /// What `reader` makes of the answer, and whether the alternate secret brought it.
    pub fn read<T>(
        self,
        reader: impl FnOnce(Answer, &Quote) -> Result<T, Error>,
    ) -> Result<(T, bool), Error> {
        match reader(self.answer, &self.quote) {
            Ok(read) => Ok((read, self.which == Which::Alternate)),
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
            && response::rejection(&self.answer).is_some_and(|rejection| rejection.code == Code::UseDpopNonce)
    }
}

impl Memory {
    fn nonce(&self) -> Option<String> {
        self.nonce.lock().clone()
    }

    fn remember(&self, nonce: &str) {
        *self.nonce.lock() = Some(nonce.to_owned());
    }
}
