//! Keeps one token fresh. One task a source, so there is never more than one request on the way; whatever fails,
//! the last good token stays until it really expires.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::clock::unix_seconds;
use crate::{Clock, Error, Schedule, Token, TokenEndpoint};

/// What a source has.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Valid when it was put here; taken away when it expires.
    pub token: Option<Arc<Token>>,
    /// The last request, if it failed.
    pub last_failure: Option<Failure>,
    pub next_request_at: Option<SystemTime>,
    /// Token requests so far.
    pub requests: u64,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub at: SystemTime,
    pub error: Error,
}

/// Ends with its task, and any request on the way, when it is dropped.
pub struct TokenSource<E> {
    state: watch::Receiver<State>,
    endpoint: mpsc::UnboundedSender<E>,
    task: AbortHandle,
}

impl<E> Drop for TokenSource<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: TokenEndpoint> TokenSource<E> {
    /// Starts with a request at once.
    pub fn spawn(endpoint: E, schedule: Schedule, clock: Clock) -> Self {
        let (sender, state) = watch::channel(State::default());
        let (replacements, received) = mpsc::unbounded_channel();
        let keeper = Keeper {
            endpoint,
            schedule,
            clock,
            state: sender,
            replacements: received,
            failures: 0,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Self {
            state,
            endpoint: replacements,
            task,
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Asks for a token at once in another way, such as with a new secret. Only a new token replaces the one in
    /// use: a broken secret costs nothing before that expires.
    pub fn replace(&self, endpoint: E) {
        // The task ends only with this handle.
        let _ = self.endpoint.send(endpoint);
    }
}

struct Keeper<E> {
    endpoint: E,
    schedule: Schedule,
    clock: Clock,
    state: watch::Sender<State>,
    replacements: mpsc::UnboundedReceiver<E>,
    failures: u32,
}

enum Event<E> {
    Answered(Result<Token, Error>),
    Replaced(E),
    Due,
}

impl<E: TokenEndpoint> Keeper<E> {
    async fn run(mut self) {
        loop {
            let asked_at = self.clock.now();
            self.state.send_modify(|state| {
                state.requests += 1;
                state.next_request_at = None;
            });
            let event = match self.ask(asked_at).await {
                Event::Answered(answer) => {
                    let next = self.take(answer);
                    self.state.send_modify(|state| state.next_request_at = Some(next));
                    self.wait(next).await
                }
                event => event,
            };
            if let Event::Replaced(endpoint) = event {
                info!("asking for a token in the changed way");
                self.endpoint = endpoint;
                self.failures = 0;
            }
        }
    }

    /// One request. A replacement makes its answer worthless and ends it.
    async fn ask(&mut self, asked_at: SystemTime) -> Event<E> {
        let Self {
            endpoint,
            replacements,
            state,
            clock,
            ..
        } = self;
        let mut request = std::pin::pin!(endpoint.request(asked_at));
        loop {
            let expiry = expiry(state, clock);
            tokio::select! {
                answer = &mut request => return Event::Answered(answer),
                Some(endpoint) = replacements.recv() => return Event::Replaced(endpoint),
                () = at(expiry) => expire(state, clock),
            }
        }
    }

    async fn wait(&mut self, next: SystemTime) -> Event<E> {
        let Self {
            replacements,
            state,
            clock,
            ..
        } = self;
        let due = clock.instant(next);
        loop {
            let expiry = expiry(state, clock);
            tokio::select! {
                () = sleep_until(due) => return Event::Due,
                Some(endpoint) = replacements.recv() => return Event::Replaced(endpoint),
                () = at(expiry) => expire(state, clock),
            }
        }
    }

    /// Takes an answer over and says when to ask again.
    fn take(&mut self, answer: Result<Token, Error>) -> SystemTime {
        let now = self.clock.now();
        let answer = answer.and_then(|token| match token.expires_at <= now {
            true => Err(Error::ExpiredOnArrival(0)),
            false => Ok(token),
        });
        match answer {
            Ok(token) => {
                self.failures = 0;
                let next = self.schedule.renew_at(&token, rand::random());
                info!(expires_at = unix_seconds(token.expires_at), "got a token");
                self.state.send_modify(|state| {
                    state.token = Some(Arc::new(token));
                    state.last_failure = None;
                });
                next
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let wait = self
                    .schedule
                    .back_off(self.failures, error.retry_after(), rand::random());
                warn!(reason = error.reason(), %error, failures = self.failures, "got no token");
                self.state
                    .send_modify(|state| state.last_failure = Some(Failure { at: now, error }));
                now + wait
            }
        }
    }
}

fn expiry(state: &watch::Sender<State>, clock: &Clock) -> Option<Instant> {
    state
        .borrow()
        .token
        .as_ref()
        .map(|token| clock.instant(token.expires_at))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Takes the token out of use, if its time has come.
fn expire(state: &watch::Sender<State>, clock: &Clock) {
    let now = clock.now();
    state.send_if_modified(|state| {
        let over = state.token.as_ref().is_some_and(|token| token.expires_at <= now);
        if over {
            state.token = None;
        }
        over
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use secrecy::ExposeSecret;
    use tokio::time::sleep;

    use super::*;
    use crate::RefreshBefore;

    /// Answers from a list, then repeats the last one; counts the requests on the way.
    struct Script {
        answers: Mutex<Vec<Answer>>,
        flying: Arc<AtomicU32>,
        most: Arc<AtomicU32>,
    }

    #[derive(Clone)]
    enum Answer {
        Token(&'static str, u64),
        Error(Error),
        Never,
    }

    struct Flight(Arc<AtomicU32>);

    impl Drop for Flight {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Script {
        fn new(answers: &[Answer]) -> Self {
            Self {
                answers: Mutex::new(answers.to_vec()),
                flying: Arc::default(),
                most: Arc::default(),
            }
        }
    }

    impl TokenEndpoint for Script {
        async fn request(&self, now: SystemTime) -> Result<Token, Error> {
            let flying = self.flying.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(flying, Ordering::SeqCst);
            let _flight = Flight(self.flying.clone());
            sleep(Duration::from_millis(100)).await;
            let answer = {
                let mut answers = self.answers.lock().unwrap();
                if answers.len() > 1 {
                    answers.remove(0)
                } else {
                    answers[0].clone()
                }
            };
            match answer {
                Answer::Token(text, life) => Ok(Token {
                    access_token: text.into(),
                    issued_at: now,
                    expires_at: now + Duration::from_secs(life),
                    scope: None,
                }),
                Answer::Error(error) => Err(error),
                Answer::Never => std::future::pending().await,
            }
        }
    }

    fn source(answers: &[Answer]) -> TokenSource<Script> {
        let schedule = Schedule {
            refresh_before: RefreshBefore::Share(0.5),
        };
        TokenSource::spawn(Script::new(answers), schedule, Clock::starting_at(UNIX_EPOCH))
    }

    fn token(source: &TokenSource<Script>) -> Option<String> {
        source
            .state()
            .token
            .map(|token| token.access_token.expose_secret().to_owned())
    }

    fn failed(status: u16) -> Answer {
        Answer::Error(Error::Status {
            status,
            retry_after: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn renews_ahead_and_serves_the_old_token_until_the_new_one_is_there() {
        let source = source(&[Answer::Token("one", 1000), Answer::Token("two", 1000)]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(token(&source).as_deref(), Some("one"));
        sleep(Duration::from_secs(440)).await;
        assert_eq!(
            (token(&source).as_deref(), source.state().requests),
            (Some("one"), 1)
        );
        sleep(Duration::from_secs(70)).await;
        assert_eq!(
            (token(&source).as_deref(), source.state().requests),
            (Some("two"), 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_server_costs_nothing_before_the_token_expires_and_the_token_then() {
        let source = source(&[Answer::Token("one", 1000), failed(503)]);
        sleep(Duration::from_secs(990)).await;
        let state = source.state();
        assert_eq!(token(&source).as_deref(), Some("one"));
        assert_eq!(state.last_failure.unwrap().error.reason(), "HttpStatus");
        assert!(
            (8..40).contains(&state.requests),
            "backs off: {} requests in 540 s",
            state.requests
        );
        sleep(Duration::from_secs(20)).await;
        assert_eq!(token(&source), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_server_does_not_keep_an_expired_token_in_use() {
        let source = source(&[Answer::Token("one", 100), Answer::Never]);
        sleep(Duration::from_secs(99)).await;
        assert_eq!(token(&source).as_deref(), Some("one"));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(token(&source), None);
    }

    #[tokio::test(start_paused = true)]
    async fn subscribers_are_told_of_the_expiry_when_it_happens() {
        let source = source(&[Answer::Token("one", 100), Answer::Never]);
        let mut states = source.subscribe();
        states.wait_for(|state| state.token.is_some()).await.unwrap();
        states.wait_for(|state| state.token.is_none()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn recovers_within_a_backoff_step() {
        let source = source(&[failed(503), failed(503), Answer::Token("one", 1000)]);
        sleep(Duration::from_secs(4)).await;
        assert_eq!(token(&source).as_deref(), Some("one"));
        assert!(source.state().last_failure.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is() {
        let busy = Error::Status {
            status: 429,
            retry_after: Some(Duration::from_secs(300)),
        };
        let source = source(&[Answer::Error(busy), Answer::Token("one", 1000)]);
        sleep(Duration::from_secs(299)).await;
        assert_eq!(source.state().requests, 1);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(token(&source).as_deref(), Some("one"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_secret_is_tried_at_once_and_a_broken_one_keeps_the_old_token() {
        let source = source(&[Answer::Token("one", 1000)]);
        sleep(Duration::from_secs(1)).await;
        let refused = Error::Refused {
            code: "invalid_client".into(),
            description: None,
        };
        source.replace(Script::new(&[Answer::Error(refused)]));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(token(&source).as_deref(), Some("one"));
        assert_eq!(
            source.state().last_failure.unwrap().error.reason(),
            "invalid_client"
        );
        source.replace(Script::new(&[Answer::Token("two", 1000)]));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(token(&source).as_deref(), Some("two"));
        assert!(source.state().last_failure.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_secret_ends_a_request_that_hangs_with_the_old_one() {
        let script = Script::new(&[Answer::Never]);
        let (flying, most) = (script.flying.clone(), script.most.clone());
        let schedule = Schedule {
            refresh_before: RefreshBefore::Share(0.5),
        };
        let source = TokenSource::spawn(script, schedule, Clock::starting_at(UNIX_EPOCH));
        sleep(Duration::from_secs(5)).await;
        assert_eq!(flying.load(Ordering::SeqCst), 1);
        source.replace(Script::new(&[Answer::Token("two", 1000)]));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(token(&source).as_deref(), Some("two"));
        assert_eq!(
            (flying.load(Ordering::SeqCst), most.load(Ordering::SeqCst)),
            (0, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_source_asks_no_more() {
        let script = Script::new(&[Answer::Never]);
        let flying = script.flying.clone();
        let schedule = Schedule {
            refresh_before: RefreshBefore::Share(0.5),
        };
        let source = TokenSource::spawn(script, schedule, Clock::starting_at(UNIX_EPOCH));
        sleep(Duration::from_secs(1)).await;
        drop(source);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(flying.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_a_second_are_asked_for_once_a_second() {
        let source = source(&[Answer::Token("short", 1)]);
        sleep(Duration::from_secs(60)).await;
        assert!(
            source.state().requests <= 60,
            "{} requests in a minute",
            source.state().requests
        );
    }
}
