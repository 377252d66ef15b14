//! Random sequences of events, against what must hold whatever happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_oauth::{
    BasicErrorResponseType, Clock, Error, ErrorCode, ErrorResponse, IssuedToken, Policy, RetryAfter,
    TokenRequest, TokenRequestFuture, TokenRequester, TokenSource, TokenSourceState,
};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::script::unavailable;
use crate::start;

/// What happens between two looks at the source.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    /// The server behaves like this from now on.
    Server(Mood),
    /// The token in use is refused; an old one; one that never was.
    Refuse(Which),
    Demand(Which, &'static str),
    Replace,
    Follow(&'static str),
    SetClock(i64),
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Current,
    Old,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Well {
        expires_in: Option<i64>,
        takes: u64,
    },
    /// Issues one token until its end.
    Repeats {
        expires_in: i64,
    },
    Picky,
    Down,
    Busy,
    Hangs,
}

#[derive(Clone)]
struct Server(Arc<Inner>);

struct Inner {
    mood: Mutex<Mood>,
    requests: Mutex<Vec<Instant>>,
    under_way: Mutex<(usize, usize)>,
}

struct UnderWay(Arc<Inner>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap().0 -= 1;
    }
}

impl TokenRequester for Server {
    fn request(&self, request: &TokenRequest) -> TokenRequestFuture<'_> {
        let inner = &self.0;
        inner.requests.lock().unwrap().push(Instant::now());
        {
            let mut under_way = inner.under_way.lock().unwrap();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        let guard = UnderWay(Arc::clone(inner));
        let (mood, scopes) = (*inner.mood.lock().unwrap(), request.scopes.clone());
        let token = format!("t-{}", inner.requests.lock().unwrap().len());
        Box::pin(async move {
            let _guard = guard;
            match mood {
                Mood::Well { expires_in, takes } => {
                    tokio::time::sleep(Duration::from_secs(takes)).await;
                    Ok(IssuedToken {
                        expires_in,
                        ..IssuedToken::bearer(token)
                    })
                }
                Mood::Repeats { expires_in } => Ok(IssuedToken {
                    expires_in: Some(expires_in),
                    ..IssuedToken::bearer("always the same")
                }),
                Mood::Picky if scopes.is_empty() => Ok(IssuedToken {
                    expires_in: Some(600),
                    ..IssuedToken::bearer(token)
                }),
                Mood::Picky => Err(Error::Rejected(ErrorResponse {
                    code: ErrorCode::Basic(BasicErrorResponseType::InvalidScope),
                    description: None,
                    status: 400,
                    retry_after: None,
                    advice: None,
                })),
                Mood::Down => Err(unavailable(None)),
                Mood::Busy => Err(unavailable(RetryAfter::parse("45"))),
                Mood::Hangs => std::future::pending().await,
            }
        })
    }
}

/// A token that was seen: when it is over by the timer.
type Seen = HashMap<String, (Option<Instant>, Option<Timestamp>)>;

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![4 => Just(Which::Current), 1 => Just(Which::Old), 1 => Just(Which::Unknown)]
}

fn mood() -> impl Strategy<Value = Mood> {
    let life = prop_oneof![
        Just(None),
        Just(Some(0)),
        Just(Some(-5)),
        Just(Some(1)),
        (2_i64..60).prop_map(Some),
        (60_i64..10_000).prop_map(Some),
        Just(Some(i64::MAX)),
    ];
    prop_oneof![
        4 => (life, 0_u64..8).prop_map(|(expires_in, takes)| Mood::Well { expires_in, takes }),
        1 => (1_i64..1000).prop_map(|expires_in| Mood::Repeats { expires_in }),
        1 => Just(Mood::Picky),
        1 => Just(Mood::Down),
        1 => Just(Mood::Busy),
        1 => Just(Mood::Hangs),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let scope = prop_oneof![Just("a"), Just("b"), Just("c d"), Just("e"), Just("b\\")];
    prop_oneof![
        6 => prop_oneof![0_u64..3, 3_u64..120, 120_u64..4000].prop_map(Event::Wait),
        3 => mood().prop_map(Event::Server),
        4 => which().prop_map(Event::Refuse),
        2 => (which(), scope).prop_map(|(which, scope)| Event::Demand(which, scope)),
        1 => Just(Event::Replace),
        1 => prop_oneof![Just("1%"), Just("99%"), Just("5m")].prop_map(Event::Follow),
        1 => prop_oneof![-100_000_i64..100_000, -100_i64..100].prop_map(Event::SetClock),
    ]
}

/// Of one exchange.
const DEADLINE: Duration = Duration::from_secs(30);

fn policy(refresh_before: &str) -> Policy {
    Policy {
        refresh_before: refresh_before.parse().unwrap(),
        random: || 0.5,
        deadline: DEADLINE,
        ..Policy::default()
    }
}

/// Lets everything happen that is due now. The clock stands still meanwhile.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Whether what the state tells is true: a token that is over serves nobody, one that is not is still there.
fn look(state: &TokenSourceState, seen: &mut Seen, last: &mut Option<String>, clock: &Clock) {
    let is_over = |seen: &Seen, id: &str| {
        let (by_timer, by_clock) = seen[id];
        by_timer.is_some_and(|at| at <= Instant::now()) || by_clock.is_some_and(|at| at <= clock.now())
    };
    match &state.token {
        Some(token) => {
            // A token that comes again may come with another end.
            if seen
                .get(&token.id)
                .is_none_or(|(_, end)| *end != token.expires_at)
            {
                let remaining = token
                    .expires_at
                    .map(|at| at.duration_since(clock.now()).unsigned_abs());
                let by_timer = remaining.map(|remaining| Instant::now() + remaining);
                seen.insert(token.id.clone(), (by_timer, token.expires_at));
            }
            *last = Some(token.id.clone());
        }
        None => {
            if let Some(last) = last.take() {
                assert!(
                    is_over(seen, &last),
                    "a token is gone that was not over: {state:?}"
                );
            }
        }
    }
    let too_late = state.token.as_ref().filter(|token| {
        // The clock that was set forward is looked at every 30 seconds.
        seen[&token.id].0.is_some_and(|at| at < Instant::now())
    });
    assert!(too_late.is_none(), "a token serves beyond its end: {state:?}");
}

async fn check(events: Vec<Event>) {
    let clock = Clock::starting_at(start());
    let server = Server(Arc::new(Inner {
        mood: Mutex::new(Mood::Well {
            expires_in: Some(600),
            takes: 1,
        }),
        requests: Mutex::default(),
        under_way: Mutex::default(),
    }));
    let source = TokenSource::spawn(server.clone(), policy("33%"), clock.clone());
    let mut states = source.subscribe();
    let (mut seen, mut last, mut old) = (Seen::new(), None, String::new());
    let mut hastened: Vec<Instant> = vec![Instant::now()];

    for event in events {
        settle().await;
        look(&states.borrow().clone(), &mut seen, &mut last, &clock);
        let current = last.clone().unwrap_or_default();
        let id = |which| match which {
            Which::Current => current.clone(),
            Which::Old => old.clone(),
            Which::Unknown => "0".to_owned(),
        };
        match event {
            Event::Wait(seconds) => {
                let end = Instant::now() + Duration::from_secs(seconds);
                // No token comes and goes unseen: time stands still while there is something to look at.
                while let Ok(changed) = tokio::time::timeout_at(end, states.changed()).await {
                    changed.unwrap();
                    look(&states.borrow_and_update().clone(), &mut seen, &mut last, &clock);
                }
            }
            Event::Server(mood) => *server.0.mood.lock().unwrap() = mood,
            Event::Refuse(which) => {
                source.report_rejected(&id(which));
                hastened.push(Instant::now());
            }
            Event::Demand(which, scopes) => {
                source.demand_scopes(&id(which), scopes.split(' ').map(str::to_owned).collect());
                hastened.push(Instant::now());
            }
            Event::Replace => {
                source.replace(server.clone());
                hastened.push(Instant::now());
            }
            Event::Follow(refresh_before) => source.set_policy(policy(refresh_before)),
            Event::SetClock(by) => {
                clock.set_by(by);
                hastened.push(Instant::now());
            }
        }
        old = current;
    }
    settle().await;

    // The server is well again: one backoff step, the longest of which is that after a permanent failure, or
    // what it asked for, or the deadline of a request under way and a step, and there is a good token.
    *server.0.mood.lock().unwrap() = Mood::Well {
        expires_in: Some(3600),
        takes: 0,
    };
    tokio::time::sleep(DEADLINE + Duration::from_secs(600)).await;
    settle().await;
    let healed = states.borrow().clone();
    assert!(healed.token.is_some(), "{healed:?}");
    assert_eq!((healed.failures_in_a_row, &healed.last_error), (0, &None));

    assert!(server.0.under_way.lock().unwrap().1 <= 1, "two requests at once");
    let requests = server.0.requests.lock().unwrap().clone();
    for (nth, from) in requests.iter().enumerate() {
        let within = |at: &&Instant| **at >= *from && **at < *from + Duration::from_secs(10);
        let made = requests[nth..].iter().filter(within).count();
        // Once a second for tokens that live no longer, and those that something else brought forward: a
        // demand also brings a request that a request under way had put off.
        let events = hastened
            .iter()
            .filter(|at| **at + Duration::from_secs(40) > *from && **at < *from + Duration::from_secs(10))
            .count();
        assert!(made <= 10 + 1 + events, "{made} requests within ten seconds");
    }
    assert!(states.borrow().requests == requests.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_there_is_one_request_at_a_time_no_hot_loop_no_lost_token_and_recovery(
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(events));
    }
}
