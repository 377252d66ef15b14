//! How many users are kept and waited for: who gives way, and who waits in line.

use std::sync::Arc;

use mcp_auth_oauth::{ClaimMismatchError, Clock, Error, UserTokenLimit, UserTokenQuotas, UserTokens};
use secrecy::SecretString;

use super::server::{Answer, Server};
use super::{get, policy, sleep, start, users};

fn tokens(limit: usize) -> UserTokenLimit {
    UserTokenLimit::Tokens(limit)
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_gives_way() {
    let clock = Clock::starting_at(start());
    let users = UserTokens::with_capacity(2, policy(), clock.clone());
    let server = Server::new();
    for user in ["anna", "ben", "anna", "carl", "anna", "ben"] {
        get(&users, &server, user).await.unwrap();
    }
    assert_eq!(
        (
            server.requests("anna"),
            server.requests("ben"),
            server.requests("carl")
        ),
        (1, 2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_at_its_quota_replaces_its_own_tokens_and_no_other_tenants() {
    let clock = Clock::starting_at(start());
    let quotas = UserTokenQuotas::new(3, 100);
    let of_tenant = |tenant: &str| users(&clock).within(quotas.of_tenant(tenant));
    // Two resources of one tenant, and one of another.
    let (red, red_too, blue) = (of_tenant("red"), of_tenant("red"), of_tenant("blue"));
    let server = Server::new();
    for user in ["anna", "ben"] {
        get(&blue, &server, user).await.unwrap();
        get(&red, &server, user).await.unwrap();
    }
    get(&red_too, &server, "carl").await.unwrap();
    assert_eq!((red.limited_to(), blue.limited_to()), (None, None));
    // Everybody gets a token, whether there is room to keep it or not.
    for user in ["dora", "emil", "fred"] {
        get(&red, &server, user).await.unwrap();
    }
    assert_eq!(
        (red.limited_to(), red_too.limited_to()),
        (Some(tokens(3)), Some(tokens(3)))
    );
    assert_eq!(blue.limited_to(), None);
    let requests = (red_too.requests(), blue.requests());
    get(&red_too, &server, "carl").await.unwrap();
    for user in ["anna", "ben"] {
        get(&blue, &server, user).await.unwrap();
    }
    assert_eq!((red_too.requests(), blue.requests()), requests, "theirs are kept");
    let before = red.requests();
    get(&red, &server, "fred").await.unwrap();
    assert_eq!(red.requests(), before);
    get(&red, &server, "anna").await.unwrap();
    assert_eq!(red.requests(), before + 1, "the least recently used gave way");
}

#[tokio::test(start_paused = true)]
async fn expired_tokens_of_one_resource_take_no_room_from_another_of_the_tenant() {
    let clock = Clock::starting_at(start());
    let quotas = UserTokenQuotas::new(10, 100);
    let of_tenant = || users(&clock).within(quotas.of_tenant("red"));
    let (expired, active) = (of_tenant(), of_tenant());
    let server = Server::new();
    for nth in 0..=10 {
        get(&expired, &server, &nth.to_string()).await.unwrap();
    }
    assert_eq!(expired.limited_to(), Some(tokens(10)));
    sleep(24 * 60 * 60).await;
    get(&active, &server, "0").await.unwrap();
    assert_eq!(active.limited_to(), None);
    for _ in 0..2 {
        for nth in 0..10 {
            get(&active, &server, &nth.to_string()).await.unwrap();
        }
    }
    assert_eq!(active.requests(), 10);
}

#[tokio::test(start_paused = true)]
async fn at_the_quota_the_resource_that_keeps_most_gives_way() {
    let clock = Clock::starting_at(start());
    let quotas = UserTokenQuotas::new(10, 100);
    let of_tenant = || users(&clock).within(quotas.of_tenant("red"));
    let (large, small) = (of_tenant(), of_tenant());
    let server = Server::new();
    for nth in 0..10 {
        get(&large, &server, &nth.to_string()).await.unwrap();
    }
    for _ in 0..2 {
        for nth in 0..5 {
            get(&small, &server, &nth.to_string()).await.unwrap();
        }
    }
    assert_eq!(small.requests(), 5);
    for nth in 5..10 {
        get(&large, &server, &nth.to_string()).await.unwrap();
    }
    assert_eq!(large.requests(), 10, "its other five gave way");
    assert_eq!(
        (large.limited_to(), small.limited_to()),
        (Some(tokens(10)), Some(tokens(10)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_long_tokens_keeps_fewer_and_replaces_its_own_and_no_other_tenants() {
    const LENGTH: usize = 16 * 1024;
    /// Of such tokens in the 32 MiB of a tenant.
    const ROOM: usize = 2048;
    let clock = Clock::starting_at(start());
    let quotas = UserTokenQuotas::new(10_000, 50_000);
    let of_tenant = |tenant: &str| users(&clock).within(quotas.of_tenant(tenant));
    let (red, red_too, blue) = (of_tenant("red"), of_tenant("red"), of_tenant("blue"));
    let server = Server::new();
    server.answers(Answer::Long(LENGTH));
    get(&blue, &server, "anna").await.unwrap();
    for nth in 0..ROOM {
        get(&red, &server, &nth.to_string()).await.unwrap();
    }
    assert_eq!((red.limited_to(), blue.limited_to()), (None, None));
    for nth in 0..10 {
        get(&red_too, &server, &nth.to_string()).await.unwrap();
    }
    assert_eq!(red.limited_to(), Some(UserTokenLimit::Bytes(ROOM * LENGTH)));
    assert_eq!(
        (red_too.limited_to(), blue.limited_to()),
        (red.limited_to(), None)
    );
    let before = (red.requests(), red_too.requests(), blue.requests());
    get(&red_too, &server, "9").await.unwrap();
    get(&red, &server, "10").await.unwrap();
    get(&blue, &server, "anna").await.unwrap();
    assert_eq!(
        (red.requests(), red_too.requests(), blue.requests()),
        before,
        "theirs are kept"
    );
    get(&red, &server, "9").await.unwrap();
    assert_eq!(red.requests(), before.0 + 1, "the least recently used gave way");
}

#[tokio::test(start_paused = true)]
async fn long_tokens_are_kept_for_fewer_users_and_the_least_recently_used_gives_way() {
    const LENGTH: usize = 16 * 1024;
    /// Of such tokens in 32 MiB.
    const ROOM: usize = 2048;
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers(Answer::Long(LENGTH));
    for nth in 0..ROOM {
        get(&users, &server, &nth.to_string()).await.unwrap();
    }
    // There is room for all, and anew for those that take the place of their predecessors.
    for nth in 0..ROOM {
        let (user, subject) = (nth.to_string(), SecretString::from(nth.to_string()));
        let first = get(&users, &server, &user).await.unwrap();
        assert_eq!(server.requests(&user), 1);
        users.report_rejected(&subject, &first.id);
        get(&users, &server, &user).await.unwrap();
    }
    assert_eq!(users.requests(), 2 * ROOM as u64);
    get(&users, &server, "0").await.unwrap();
    for nth in 0..10 {
        get(&users, &server, &format!("newcomer {nth}")).await.unwrap();
    }
    let before = users.requests();
    for user in ["0", "11", "2047", "newcomer 0", "newcomer 9"] {
        get(&users, &server, user).await.unwrap();
    }
    assert_eq!(users.requests(), before, "those were used of late");
    get(&users, &server, "1").await.unwrap();
    get(&users, &server, "10").await.unwrap();
    assert_eq!(users.requests(), before + 2, "those gave way");
}

#[tokio::test(start_paused = true)]
async fn long_errors_count_as_well() {
    let clock = Clock::starting_at(start());
    let (users, server) = (users(&clock), Server::new());
    server.answers(Answer::Error(Error::TokenMismatch(ClaimMismatchError {
        claim: "aud".into(),
        expected: "a".into(),
        found: "b".repeat(16 * 1024),
    })));
    for nth in 0..2100 {
        get(&users, &server, &nth.to_string()).await.unwrap_err();
    }
    get(&users, &server, "2099").await.unwrap_err();
    assert_eq!(users.requests(), 2100);
    get(&users, &server, "0").await.unwrap_err();
    assert_eq!(users.requests(), 2101);
}

#[tokio::test(start_paused = true)]
async fn where_all_places_are_waited_for_there_is_an_error_instead_of_a_second_request() {
    let clock = Clock::starting_at(start());
    let users = UserTokens::with_capacity(1, policy(), clock.clone());
    let server = Server::new();
    server.takes(5);
    let anna = get(&users, &server, "anna");
    let ben = async {
        sleep(1).await;
        get(&users, &server, "ben").await
    };
    let (anna, ben) = tokio::join!(anna, ben);
    assert!(anna.is_ok());
    assert_eq!(ben.unwrap_err(), Error::TooManyAtOnce);
    assert!(get(&users, &server, "ben").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_waits_in_line_and_everybody_gets_a_token() {
    let clock = Clock::starting_at(start());
    let (users, server) = (Arc::new(users(&clock)), Server::new());
    server.takes(1);
    let calls: Vec<_> = (0..200)
        .map(|nth| {
            let (users, server) = (Arc::clone(&users), server.clone());
            tokio::spawn(async move { get(&users, &server, &nth.to_string()).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!((server.most(), users.requests()), (64, 200));
}
