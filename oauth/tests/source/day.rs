//! Token requests in 24 simulated hours: what set-ups that work and that do not cost their authorization server. The table
//! stands in `docs/token-requests.md` too, and is compared with it.

use std::time::Duration;

use mcp_auth_oauth::{
    BasicErrorResponseType, ClaimMismatchError, Clock, ConnectError, Error, ErrorCode, ErrorResponse,
    InstallationError, InstallationProblem, Policy, RetryAfter, TokenSource,
};

use crate::script::{Script, Step, unavailable};
use crate::{issue, policy, sleep, start};

const DAY: u64 = 24 * 60 * 60;
const PAGE: &str = include_str!("../../../docs/token-requests.md");

struct Case {
    name: &'static str,
    /// What comes of the request of this number.
    step: fn(usize) -> Step,
    /// The bound that the whole is for.
    at_most: usize,
    assumed_lifetime: Duration,
}

fn issued(nth: usize, life: i64) -> Step {
    issue(["one", "another"][nth % 2], life)
}

fn without_life(nth: usize) -> Step {
    Step::Issue {
        token: ["one", "another"][nth % 2],
        expires_in: None,
        takes: 0,
    }
}

fn rejected(code: BasicErrorResponseType, status: u16) -> Step {
    Step::Fail(Error::Rejected(ErrorResponse {
        code: ErrorCode::Basic(code),
        description: None,
        status,
        retry_after: None,
        advice: None,
    }))
}

fn cases() -> Vec<Case> {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let case = |name, step| Case {
        name,
        step,
        // A set-up that works, or that only a change mends, costs hundreds and not thousands.
        at_most: 500,
        assumed_lifetime: Policy::default().assumed_lifetime,
    };
    // One that may work in a moment is asked every few seconds at first, since calls have no token, and then each minute.
    let passing = |name, step| Case {
        at_most: 3000,
        ..case(name, step)
    };
    vec![
        case("works: tokens live for an hour", |nth| issued(nth, 3600)),
        case("works: for five minutes", |nth| issued(nth, 300)),
        case("works: for a day", |nth| issued(nth, 86_400)),
        case(
            "works: the server issues each token until its end (an hour)",
            |nth| {
                // Asked early it has nothing new, and asked at the end the next one.
                match nth % 2 {
                    0 => issued(nth / 2, 3600),
                    _ => issued(nth / 2, 1188),
                }
            },
        ),
        case("works: no life is stated", without_life),
        Case {
            assumed_lifetime: minutes(60),
            ..case(
                "works: no life is stated, `assumedLifetime: 1h` (Salesforce)",
                without_life,
            )
        },
        case("the token does not fit (`TokenMismatch`)", |_| {
            Step::Fail(Error::TokenMismatch(ClaimMismatchError {
                claim: "aud".into(),
                expected: "\"https://tools.example.com/mcp\"".into(),
                found: "\"account\"".into(),
            }))
        }),
        case("the client secret is wrong (`invalid_client`)", |_| {
            rejected(BasicErrorResponseType::InvalidClient, 401)
        }),
        case("the scope is not granted (`invalid_scope`)", |_| {
            rejected(BasicErrorResponseType::InvalidScope, 400)
        }),
        case("the installation of the GitHub App is suspended", |_| {
            Step::Fail(Error::Installation(InstallationError {
                problem: InstallationProblem::Suspended,
                status: 403,
                message: None,
                retry_after: None,
            }))
        }),
        case("the certificate of the server is not trusted", |_| {
            Step::Fail(Error::Connect(ConnectError::Tls(None)))
        }),
        passing("the server is down (503)", |_| Step::Fail(unavailable(None))),
        passing("nothing listens there", |_| {
            Step::Fail(Error::Connect(ConnectError::Refused))
        }),
        case("the server asks to wait five minutes each time (429)", |_| {
            Step::Fail(Error::HttpStatus {
                status: 429,
                retry_after: Some(RetryAfter::Delay(Duration::from_secs(300))),
            })
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_works_and_what_does_not_costs_a_server_what_the_table_says() {
    let mut table = String::new();
    for case in cases() {
        let clock = Clock::starting_at(start());
        let script = Script::new(&clock, (0..DAY as usize).map(case.step).collect::<Vec<_>>());
        let policy = Policy {
            assumed_lifetime: case.assumed_lifetime,
            // Where chance spreads renewals and retries, its mean.
            random: || 0.5,
            ..policy()
        };
        let source = TokenSource::spawn(script.clone(), policy, clock.clone());
        sleep(DAY).await;
        let requests = script.requests().len();
        drop(source);
        assert!(requests <= case.at_most, "{}: {requests}", case.name);
        table += &format!("| {} | {requests} |\n", case.name);
    }
    assert!(
        PAGE.contains(&table),
        "docs/token-requests.md has another table than this:\n{table}"
    );
}
