//! An authorization server made of a script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_oauth::{
    Clock, Error, IssuedToken, RetryAfter, TokenRequest, TokenRequestFuture, TokenRequester,
};

use crate::seconds;

/// What comes of a request, after some seconds.
pub enum Step {
    Issue {
        token: &'static str,
        expires_in: Option<i64>,
        takes: u64,
    },
    /// A token that lives for an hour.
    IssueScoped {
        token: &'static str,
        scope: Option<&'static str>,
    },
    Fail(Error),
    FailLate(Error, u64),
    Hang,
}

/// An authorization server that follows a script; where it ends, every request fails.
#[derive(Clone)]
pub struct Script(Arc<Inner>);

struct Inner {
    clock: Clock,
    steps: Mutex<VecDeque<Step>>,
    requests: Mutex<Vec<Timestamp>>,
    requested_scopes: Mutex<Vec<Vec<String>>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

/// Counts a request as under way until its future is dropped.
struct UnderWay(Arc<Inner>);

impl TokenRequester for Script {
    fn request(&self, request: &TokenRequest) -> TokenRequestFuture<'_> {
        let inner = &self.0;
        let scopes = request.scopes.iter().cloned().map(String::from);
        inner.requested_scopes.lock().unwrap().push(scopes.collect());
        inner.requests.lock().unwrap().push(inner.clock.now());
        let step = inner
            .steps
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Step::Fail(unavailable(None)));
        let count = inner.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        inner.most_under_way.fetch_max(count, Ordering::SeqCst);
        let guard = UnderWay(Arc::clone(inner));
        Box::pin(async move {
            let _guard = guard;
            match step {
                Step::Issue {
                    token,
                    expires_in,
                    takes,
                } => {
                    tokio::time::sleep(Duration::from_secs(takes)).await;
                    let scope = Some("tools".to_owned());
                    Ok(IssuedToken {
                        expires_in,
                        scope,
                        ..IssuedToken::bearer(token)
                    })
                }
                Step::IssueScoped { token, scope } => Ok(IssuedToken {
                    expires_in: Some(3600),
                    scope: scope.map(str::to_owned),
                    ..IssuedToken::bearer(token)
                }),
                Step::Fail(error) => Err(error),
                Step::FailLate(error, takes) => {
                    tokio::time::sleep(Duration::from_secs(takes)).await;
                    Err(error)
                }
                Step::Hang => std::future::pending().await,
            }
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Script {
    pub fn new(clock: &Clock, steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Inner {
            clock: clock.clone(),
            steps: Mutex::new(steps.into_iter().collect()),
            requests: Mutex::default(),
            requested_scopes: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        }))
    }

    /// Seconds from the start to each request.
    pub fn requests(&self) -> Vec<i64> {
        self.0
            .requests
            .lock()
            .unwrap()
            .iter()
            .map(|at| seconds(*at))
            .collect()
    }

    /// The scopes that each request asked for.
    pub fn requested_scopes(&self) -> Vec<Vec<String>> {
        self.0.requested_scopes.lock().unwrap().clone()
    }

    pub fn under_way(&self) -> usize {
        self.0.under_way.load(Ordering::SeqCst)
    }

    pub fn most_under_way(&self) -> usize {
        self.0.most_under_way.load(Ordering::SeqCst)
    }
}

pub fn unavailable(retry_after: Option<RetryAfter>) -> Error {
    Error::HttpStatus {
        status: 503,
        retry_after,
    }
}
