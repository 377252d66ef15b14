//! Random sequences of events, against what must hold whatever happens.

use std::time::Duration;

use mcp_auth_oauth::{BasicErrorResponseType, Clock, Error, ErrorCode, UserTokens};
use proptest::prelude::*;
use secrecy::SecretString;
use tokio::task::JoinSet;

use crate::server::{Answer, Server, rejected, unavailable};
use crate::{DEADLINE, get, policy, start, text};

#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    /// So many calls of this user at once.
    Call(u8, u8),
    Refuse(u8),
    Life(Option<i64>),
    Takes(u64),
    Down,
    NoUser,
    Malformed,
    Hang,
    Replaced,
    SetClock(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let life = prop_oneof![Just(None), Just(Some(0)), (1_i64..4000).prop_map(Some)];
    prop_oneof![
        4 => prop_oneof![0_u64..3, 0_u64..100, 100_u64..4000].prop_map(Event::Wait),
        8 => (0_u8..8, 1_u8..5).prop_map(|(user, calls)| Event::Call(user, calls)),
        3 => (0_u8..8).prop_map(Event::Refuse),
        2 => life.prop_map(Event::Life),
        1 => (0_u64..10).prop_map(Event::Takes),
        1 => Just(Event::Down),
        1 => Just(Event::NoUser),
        1 => Just(Event::Malformed),
        1 => Just(Event::Hang),
        1 => Just(Event::Replaced),
        1 => (-10_000_i64..10_000).prop_map(Event::SetClock),
    ]
}

async fn check(events: Vec<Event>, capacity: usize) {
    let clock = Clock::starting_at(start());
    let users = std::sync::Arc::new(UserTokens::with_capacity(capacity, policy(), clock.clone()));
    let server = Server::new();
    let mut calls = JoinSet::new();
    for event in events {
        match event {
            Event::Wait(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            Event::Call(user, times) => {
                for _ in 0..times {
                    let (users, server, clock) = (users.clone(), server.clone(), clock.clone());
                    calls.spawn(async move {
                        let user = user.to_string();
                        if let Ok(token) = get(&users, &server, &user).await {
                            assert!(
                                text(&token).starts_with(&format!("{user}'s ")),
                                "somebody else's token"
                            );
                            assert!(!token.is_expired(clock.now()), "a token that is over");
                        }
                    });
                }
            }
            Event::Refuse(user) => {
                let user = user.to_string();
                let before = server.requests(&user);
                if let Ok(Ok(token)) =
                    tokio::time::timeout(Duration::from_secs(40), get(&users, &server, &user)).await
                {
                    users.report_rejected(&SecretString::from(user.as_str()), &token.id);
                }
                assert!(
                    server.requests(&user) <= before + 1,
                    "a call is one request at the most"
                );
            }
            Event::Life(expires_in) => server.answers(Answer::Token { expires_in }),
            Event::Takes(seconds) => server.takes(seconds),
            Event::Down => server.answers(Answer::Error(unavailable(None))),
            Event::NoUser => server.answers(Answer::Error(rejected(ErrorCode::Basic(
                BasicErrorResponseType::InvalidGrant,
            )))),
            Event::Malformed => server.answers(Answer::Error(Error::TooLarge { limit: 1 })),
            Event::Hang => server.answers(Answer::Hang),
            Event::Replaced => users.reset_failures(),
            Event::SetClock(by) => clock.set_by(by),
        }
    }
    // Within the deadline everybody has an answer, and one backoff step after that, a token.
    server.answers(Answer::Token {
        expires_in: Some(3600),
    });
    let all = async {
        while let Some(call) = calls.join_next().await {
            call.unwrap()
        }
    };
    tokio::time::timeout(DEADLINE + Duration::from_secs(1), all)
        .await
        .expect("every call ends");
    tokio::time::sleep(Duration::from_secs(61)).await;
    for user in 0..8 {
        let token = get(&users, &server, &user.to_string()).await;
        assert!(token.is_ok(), "{token:?}");
    }
    assert!(server.most_for_one() <= 1, "two requests for one user at once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_nobody_gets_anothers_token_or_one_that_is_over_and_all_recover(
        events in prop::collection::vec(event(), 1..60), capacity in 1_usize..10,
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(events, capacity));
    }
}
