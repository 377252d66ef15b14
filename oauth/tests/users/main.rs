//! Tokens of users over time. No sockets: under a paused clock tokio skips to the next timer whenever nothing
//! else is ready.

// All of this is a test; clippy.toml's allowance only sees functions that are marked as one.
#![allow(clippy::unwrap_used)]

mod capacity;
mod model;
mod server;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_oauth::{
    BasicErrorResponseType, BodyShape, Circuit, ClaimMismatchError, Clock, Error, ErrorCode, Policy,
    RetryAfter, Token, TokenType, UserTokens,
};
use secrecy::SecretString;
use server::{Answer, Server, rejected, unavailable};

fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

/// Of one exchange.
const DEADLINE: Duration = Duration::from_secs(30);

/// Backs off for as long as it may.
fn policy() -> Policy {
    Policy {
        random: || 0.999_999,
        deadline: DEADLINE,
        ..Policy::default()
    }
}

fn users(clock: &Clock) -> UserTokens {
    UserTokens::new(policy(), clock.clone())
}

fn status(status: u16) -> Error {
    Error::HttpStatus {
        status,
        retry_after: None,
    }
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn get(users: &UserTokens, server: &Server, user: &str) -> Result<Arc<Token>, Error> {
    let subject = SecretString::from(user);
    users
        .get(&subject, || server.clone().exchange(user.to_owned()))
        .await
}

fn text(token: &Token) -> &str {
    token.access_token.secret()
}

#[tokio::test(start_paused = true)]
async fn each_user_gets_a_token_of_their_own_and_keeps_it() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    for _ in 0..3 {
        for user in ["anna", "ben"] {
            let token = get(&users, &server, user).await.unwrap();
            assert_eq!(text(&token), format!("{user}'s 1"));
        }
        sleep(100).await;
    }
    assert_eq!(
        (server.requests("anna"), server.requests("ben"), users.requests()),
        (1, 1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn fifty_calls_of_one_user_share_one_request_and_giving_one_up_takes_it_from_nobody() {
    let clock = Clock::starting_at(start());
    let (users, server) = (Arc::new(users(&clock)), Server::new());
    server.takes(5);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (users, server) = (Arc::clone(&users), server.clone());
            tokio::spawn(async move { get(&users, &server, "anna").await })
        })
        .collect();
    sleep(1).await;
    calls[0].abort();
    for call in calls.into_iter().skip(1) {
        assert_eq!(text(&call.await.unwrap().unwrap()), "anna's 1");
    }
    assert_eq!(server.requests("anna"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_anew_shortly_before_its_end() {
    for (life, margin) in [(3600, 30), (60, 6)] {
        let clock = Clock::starting_at(start());
        let (users, server) = (users(&clock), Server::new());
        server.answers(Answer::Token {
            expires_in: Some(life),
        });
        get(&users, &server, "anna").await.unwrap();
        sleep(life as u64 - margin - 1).await;
        assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 1");
        sleep(1).await;
        assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unknown_life_is_kept_for_five_minutes() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers(Answer::Token { expires_in: None });
    get(&users, &server, "anna").await.unwrap();
    sleep(299).await;
    assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 1");
    sleep(1).await;
    assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 2");
}

#[tokio::test(start_paused = true)]
async fn a_token_near_its_end_serves_to_it_while_the_server_is_down_and_no_longer() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    get(&users, &server, "anna").await.unwrap();
    server.answers(Answer::Error(unavailable(None)));
    sleep(3575).await;
    for _ in 0..25 {
        assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 1");
        sleep(1).await;
    }
    assert_eq!(get(&users, &server, "anna").await.unwrap_err(), unavailable(None));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_keeps_no_token_beyond_its_life() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    get(&users, &server, "anna").await.unwrap();
    clock.set_by(-100_000);
    sleep(3600).await;
    assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 2");
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_not_accepted_is_not_asked_for_again_for_half_a_minute_and_disturbs_nobody() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers_for(
        "mallory",
        Answer::Error(rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidGrant))),
    );
    for _ in 0..30 {
        let refused = get(&users, &server, "mallory").await.unwrap_err();
        assert_eq!(
            refused,
            rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidGrant))
        );
        get(&users, &server, "anna").await.unwrap();
        sleep(1).await;
    }
    assert_eq!((server.requests("mallory"), server.requests("anna")), (1, 1));
    get(&users, &server, "mallory").await.unwrap_err();
    assert_eq!(server.requests("mallory"), 2);
    assert_eq!(users.circuit(), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn three_failures_of_whichever_users_stop_requests_for_all_but_not_the_tokens_that_are_there() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    get(&users, &server, "anna").await.unwrap();
    server.answers(Answer::Error(unavailable(None)));
    for nth in 0..100 {
        let failed = get(&users, &server, &format!("user {nth}")).await;
        assert_eq!(failed.unwrap_err(), unavailable(None));
    }
    assert_eq!(users.requests(), 1 + 3);
    assert!(matches!(users.circuit(), Circuit::Open { .. }));
    assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 1");

    // One request tries whether it answers again, and the others do not wait for it.
    server.answers(Answer::Token {
        expires_in: Some(3600),
    });
    server.takes(5);
    sleep(8).await;
    let probe = get(&users, &server, "ben");
    let meanwhile = async {
        sleep(1).await;
        assert_eq!(users.circuit(), Circuit::HalfOpen);
        let began = clock.now();
        assert!(get(&users, &server, "carl").await.is_err());
        assert_eq!(clock.now(), began);
    };
    assert!(tokio::join!(probe, meanwhile).0.is_ok());
    assert_eq!((users.requests(), users.circuit()), (1 + 3 + 1, Circuit::Closed));
    assert!(get(&users, &server, "carl").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_with_one_users_token_locks_nobody_out() {
    let mut errors: Vec<_> = [400, 403, 413, 415, 422, 431].map(status).into();
    errors.extend([
        Error::TooLarge { limit: 1 },
        Error::NotJson {
            shape: BodyShape::Html,
            content_type: None,
        },
        Error::NoAccessToken {
            problem: "there is none",
        },
        Error::UnsupportedTokenType {
            token_type: None,
            expected: TokenType::Bearer,
        },
        Error::TokenMismatch(ClaimMismatchError {
            claim: "aud".into(),
            expected: "a".into(),
            found: "b".into(),
        }),
    ]);
    for error in errors {
        let clock = Clock::starting_at(start());
        let (users, server) = (users(&clock), Server::new());
        server.answers(Answer::Error(error.clone()));
        for nth in 0..10 {
            let garbage = format!("garbage {nth}");
            assert_eq!(get(&users, &server, &garbage).await.unwrap_err(), error);
            // None of them is asked for again at once.
            assert_eq!(get(&users, &server, &garbage).await.unwrap_err(), error);
        }
        server.answers(Answer::Token { expires_in: Some(60) });
        assert!(get(&users, &server, "anna").await.is_ok(), "{error:?}");
        assert_eq!((users.requests(), users.circuit()), (11, Circuit::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn one_user_whose_token_makes_the_server_fail_stops_requests_for_nobody_else() {
    for error in [status(500), status(502), Error::Interrupted] {
        let clock = Clock::starting_at(start());
        let (users, server) = (users(&clock), Server::new());
        server.answers_for("mallory", Answer::Error(error.clone()));
        for second in 0..300 {
            assert_eq!(get(&users, &server, "mallory").await.unwrap_err(), error);
            assert_eq!(users.circuit(), Circuit::Closed, "after {second} s");
            sleep(1).await;
        }
        // Ever more slowly, by the user's own backoff: after 1, 2, 4 ... 60 s.
        let requests = server.requests("mallory");
        assert!((8..=12).contains(&requests), "{requests}");
        assert!(get(&users, &server, "anna").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_again_is_not_kept_from_others_by_a_user_who_still_makes_it_fail() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers(Answer::Error(unavailable(None)));
    server.answers_for("mallory", Answer::Error(status(500)));
    for user in ["anna", "ben", "mallory"] {
        get(&users, &server, user).await.unwrap_err();
    }
    assert!(matches!(users.circuit(), Circuit::Open { .. }));
    server.answers(Answer::Token { expires_in: Some(60) });
    sleep(8).await;
    assert_eq!(get(&users, &server, "mallory").await.unwrap_err(), status(500));
    assert_eq!(server.requests("mallory"), 2, "it was mallory who probed");
    assert!(matches!(users.circuit(), Circuit::Open { .. }));
    assert!(get(&users, &server, "carl").await.is_ok());
    assert_eq!(users.circuit(), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_for_an_hour_gets_few_requests_from_few_users_and_from_many() {
    for (count, most) in [(1, 66), (3, 198), (200, 240)] {
        let clock = Clock::starting_at(start());
        let (users, server) = (users(&clock), Server::new());
        server.answers(Answer::Error(unavailable(None)));
        for _ in 0..3600 {
            for nth in 0..count {
                get(&users, &server, &nth.to_string()).await.unwrap_err();
            }
            sleep(1).await;
        }
        let requests = users.requests();
        assert!((60..=most).contains(&requests), "{count} users: {requests}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_server_or_the_client_stops_requests_for_all() {
    let mut errors: Vec<_> = [401, 404, 405, 408, 410, 429, 500, 502].map(status).into();
    errors.push(Error::Interrupted);
    errors.push(rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidClient)));
    errors.push(Error::HttpStatus {
        status: 400,
        retry_after: RetryAfter::parse("1"),
    });
    for error in errors {
        let clock = Clock::starting_at(start());
        let (users, server) = (users(&clock), Server::new());
        server.answers(Answer::Error(error.clone()));
        for nth in 0..10 {
            get(&users, &server, &nth.to_string()).await.unwrap_err();
        }
        assert!(users.requests() <= 3, "{error:?}");
        assert!(matches!(users.circuit(), Circuit::Open { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_be_left_alone_is_for_all_users() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers(Answer::Error(unavailable(RetryAfter::parse("120"))));
    get(&users, &server, "anna").await.unwrap_err();
    server.answers(Answer::Token {
        expires_in: Some(3600),
    });
    sleep(119).await;
    get(&users, &server, "ben").await.unwrap_err();
    // Up to a tenth later, so that not all who were told so come back together.
    sleep(13).await;
    get(&users, &server, "ben").await.unwrap();
    assert_eq!(users.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_when_the_server_began_to_fail_do_not_lengthen_the_wait() {
    let clock = Clock::starting_at(start());
    let (users, server) = (Arc::new(users(&clock)), Server::new());
    server.answers(Answer::Error(unavailable(None)));
    server.takes(1);
    let calls: Vec<_> = (0..50)
        .map(|nth| {
            let (users, server) = (Arc::clone(&users), server.clone());
            tokio::spawn(async move { get(&users, &server, &nth.to_string()).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap_err();
    }
    server.answers(Answer::Token { expires_in: Some(60) });
    sleep(8).await;
    get(&users, &server, "anna").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_hangs_or_panics_is_an_error_and_holds_nobody_up_for_ever() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers_for("anna", Answer::Hang);
    assert_eq!(
        get(&users, &server, "anna").await.unwrap_err().reason(),
        "Timeout"
    );
    let ben = SecretString::from("ben");
    let panics = users.get(&ben, || async { panic!("on purpose") });
    assert_eq!(panics.await.unwrap_err(), Error::Interrupted);
    sleep(2).await;
    server.answers_for("anna", Answer::Token { expires_in: Some(60) });
    assert!(get(&users, &server, "anna").await.is_ok());
    assert!(get(&users, &server, "ben").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_dropped_once_and_later_and_later_where_its_successors_are_refused_too() {
    let clock = Clock::starting_at(start());
    let shortest = Policy {
        random: || 0.0,
        ..Policy::default()
    };
    let (users, server) = (UserTokens::new(shortest, clock.clone()), Server::new());
    let anna = SecretString::from("anna");
    let first = get(&users, &server, "anna").await.unwrap();
    users.report_rejected(&anna, "another");
    users.report_rejected(&SecretString::from("ben"), &first.id);
    assert_eq!(get(&users, &server, "anna").await.unwrap().id, first.id);

    users.report_rejected(&anna, &first.id);
    let second = get(&users, &server, "anna").await.unwrap();
    users.report_rejected(&anna, &first.id);
    assert_eq!(get(&users, &server, "anna").await.unwrap().id, second.id);
    assert_eq!(server.requests("anna"), 2);

    for wait in [10, 20, 40, 80, 160, 300, 300] {
        let refused = get(&users, &server, "anna").await.unwrap();
        for _ in 0..wait {
            users.report_rejected(&anna, &refused.id);
            assert_eq!(
                get(&users, &server, "anna").await.unwrap().id,
                refused.id,
                "{wait}"
            );
            sleep(1).await;
        }
        assert_ne!(
            get(&users, &server, "anna").await.unwrap().id,
            refused.id,
            "{wait}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_was_good_to_its_end_ends_the_row() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    let anna = SecretString::from("anna");
    for _ in 0..3 {
        let refused = get(&users, &server, "anna").await.unwrap();
        users.report_rejected(&anna, &refused.id);
        let good = get(&users, &server, "anna").await.unwrap();
        assert_ne!(good.id, refused.id);
        sleep(3600).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_client_starts_without_the_failures_of_the_one_before_and_with_its_tokens() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    get(&users, &server, "anna").await.unwrap();
    server.answers(Answer::Error(rejected(ErrorCode::Basic(
        BasicErrorResponseType::InvalidClient,
    ))));
    for user in ["ben", "carl", "dora", "emil"] {
        get(&users, &server, user).await.unwrap_err();
    }
    assert_eq!(users.requests(), 1 + 3);
    users.reset_failures();
    server.answers(Answer::Token { expires_in: Some(60) });
    assert!(get(&users, &server, "ben").await.is_ok());
    assert_eq!(text(&get(&users, &server, "anna").await.unwrap()), "anna's 1");
}

#[tokio::test(start_paused = true)]
async fn debug_output_holds_neither_users_nor_tokens() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    let token = get(&users, &server, "t0p-s3cret").await;
    assert!(!format!("{users:?} {token:?}").contains("t0p-s3cret"));
}
