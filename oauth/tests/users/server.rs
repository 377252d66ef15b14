//! An authorization server that exchanges users' tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mcp_auth_oauth::{Error, ErrorCode, ErrorResponse, IssuedToken, RetryAfter};

#[derive(Clone)]
pub enum Answer {
    Token {
        expires_in: Option<i64>,
    },
    /// One of so many bytes.
    Long(usize),
    Error(Error),
    Hang,
}

#[derive(Clone)]
pub struct Server(Arc<Mutex<Inner>>);

struct Inner {
    answer: Answer,
    answers: HashMap<String, Answer>,
    takes: u64,
    requests: HashMap<String, u64>,
    under_way: HashMap<String, usize>,
    most_for_one: usize,
    most: usize,
}

struct UnderWay(Server, String);

impl Server {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            answer: Answer::Token {
                expires_in: Some(3600),
            },
            answers: HashMap::new(),
            takes: 0,
            requests: HashMap::new(),
            under_way: HashMap::new(),
            most_for_one: 0,
            most: 0,
        })))
    }

    pub fn answers(&self, answer: Answer) {
        self.0.lock().unwrap().answer = answer;
    }

    pub fn answers_for(&self, user: &str, answer: Answer) {
        self.0.lock().unwrap().answers.insert(user.to_owned(), answer);
    }

    pub fn takes(&self, seconds: u64) {
        self.0.lock().unwrap().takes = seconds;
    }

    pub fn requests(&self, user: &str) -> u64 {
        self.0
            .lock()
            .unwrap()
            .requests
            .get(user)
            .copied()
            .unwrap_or_default()
    }

    /// The most requests for one user that were under way at the same time.
    pub fn most_for_one(&self) -> usize {
        self.0.lock().unwrap().most_for_one
    }

    /// The most requests that were under way at the same time.
    pub fn most(&self) -> usize {
        self.0.lock().unwrap().most
    }

    pub async fn exchange(self, user: String) -> Result<IssuedToken, Error> {
        let (answer, takes, nth) = {
            let mut inner = self.0.lock().unwrap();
            let nth = inner.requests.entry(user.clone()).or_default();
            *nth += 1;
            let nth = *nth;
            let under_way = inner.under_way.entry(user.clone()).or_default();
            *under_way += 1;
            let under_way = *under_way;
            inner.most_for_one = inner.most_for_one.max(under_way);
            inner.most = inner.most.max(inner.under_way.values().sum());
            let answer = inner.answers.get(&user).unwrap_or(&inner.answer).clone();
            (answer, inner.takes, nth)
        };
        let _guard = UnderWay(self, user.clone());
        tokio::time::sleep(Duration::from_secs(takes)).await;
        match answer {
            Answer::Token { expires_in } => Ok(IssuedToken {
                expires_in,
                ..IssuedToken::bearer(format!("{user}'s {nth}"))
            }),
            Answer::Long(bytes) => Ok(IssuedToken {
                expires_in: Some(3600),
                ..IssuedToken::bearer(format!("{:.<bytes$}", format!("{user}'s {nth}")))
            }),
            Answer::Error(error) => Err(error),
            Answer::Hang => std::future::pending().await,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut inner = self.0.0.lock().unwrap();
        *inner.under_way.get_mut(&self.1).unwrap() -= 1;
    }
}

pub fn rejected(code: ErrorCode) -> Error {
    Error::Rejected(ErrorResponse {
        code,
        description: None,
        status: 400,
        retry_after: None,
        advice: None,
    })
}

pub fn unavailable(retry_after: Option<RetryAfter>) -> Error {
    Error::HttpStatus {
        status: 503,
        retry_after,
    }
}
