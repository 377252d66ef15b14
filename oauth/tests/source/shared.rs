//! Sources of equal registrations that share what they have requested.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::{
    BasicErrorResponseType, ClientAuthentication, Clock, Error, ErrorCode, ErrorResponse, Limits, Policy,
    Registration, SharedRequester, SharedTokenSlot, SharedTokens, TokenDigest, TokenSource, TokenSourceState,
};
use tokio::sync::watch;

use crate::script::{Script, Step, unavailable};
use crate::{issue, policy, serves, sleep, start, state};

fn digest(secret: &str) -> Option<TokenDigest> {
    let secret = ClientAuthentication::SecretBasic(secret.into());
    let registration = Registration::new("https://auth.example.com/token", "litellm", secret);
    TokenDigest::of(&registration, Limits::default().deadline)
}

struct Source {
    source: TokenSource,
    states: watch::Receiver<TokenSourceState>,
}

impl Source {
    fn start(script: &Script, slot: Option<Arc<SharedTokenSlot>>, policy: Policy, clock: &Clock) -> Self {
        let requester = SharedRequester::new(script.clone(), slot, clock.clone());
        let source = TokenSource::spawn(requester, policy, clock.clone());
        let states = source.subscribe();
        Self { source, states }
    }

    async fn until_serves(&mut self, token: &str) {
        state(&mut self.states, |state| serves(state) == Some(token)).await;
    }

    fn reject(&self) {
        let id = self.states.borrow().token.as_ref().unwrap().id.clone();
        self.source.report_rejected(&id);
    }
}

fn slow(token: &'static str) -> Step {
    Step::Issue {
        token,
        expires_in: Some(3600),
        takes: 3,
    }
}

/// Renewals are spread by chance, as they are.
fn spread(nth: usize) -> Policy {
    let random: [fn() -> f64; 3] = [|| 0.0, || 0.5, || 1.0];
    Policy {
        random: random[nth % 3],
        ..policy()
    }
}

#[tokio::test(start_paused = true)]
async fn ten_sources_that_start_together_make_one_request_and_one_for_each_renewal() {
    let clock = Clock::starting_at(start());
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, [slow("one"), slow("two"), slow("three")]),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut sources: Vec<_> = (0..10)
        .map(|nth| Source::start(&script, slot(), spread(nth), &clock))
        .collect();
    for token in ["one", "two", "three"] {
        for source in &mut sources {
            source.until_serves(token).await;
        }
    }
    assert_eq!(script.requests().len(), 3);
    let ids: std::collections::HashSet<_> = sources
        .iter()
        .map(|source| source.states.borrow().token.as_ref().unwrap().id.clone())
        .collect();
    assert_eq!(ids.len(), 10, "each reports its own");
}

#[tokio::test(start_paused = true)]
async fn a_day_of_ten_sources_takes_about_as_many_requests_as_one() {
    let clock = Clock::starting_at(start());
    let steps = (0..10_000).map(|nth| issue(["one", "another"][nth % 2], 3600));
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let slot = || tokens.slot("apps", digest("s3cret"));
    let _sources: Vec<_> = (0..10)
        .map(|nth| Source::start(&script, slot(), spread(nth), &clock))
        .collect();
    sleep(24 * 60 * 60).await;
    // One that always renews as early as chance allows.
    assert!(
        (36..=41).contains(&script.requests().len()),
        "{}",
        script.requests().len()
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_token_is_the_same_for_whoever_got_it_late() {
    let clock = Clock::starting_at(start());
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, [issue("one", 3600), issue("two", 3600)]),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut first = Source::start(&script, slot(), policy(), &clock);
    first.until_serves("one").await;
    sleep(1000).await;
    let mut second = Source::start(&script, slot(), policy(), &clock);
    second.until_serves("one").await;
    let end = |source: &Source| source.states.borrow().token.as_ref().unwrap().expires_at;
    assert_eq!(end(&first), end(&second));
    assert_eq!(
        first.states.borrow().next_attempt_at,
        second.states.borrow().next_attempt_at
    );
    // More than half of its life is over: it would have to be renewed at once.
    sleep(1000).await;
    let mut third = Source::start(&script, slot(), policy(), &clock);
    third.until_serves("two").await;
    first.until_serves("two").await;
    assert_eq!(script.requests(), [0, 2000]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_one_server_rejects_is_requested_anew_once_and_is_there_for_the_others() {
    let clock = Clock::starting_at(start());
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, [issue("one", 3600), issue("two", 3600)]),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut sources = [0, 1, 2].map(|_| Source::start(&script, slot(), policy(), &clock));
    for source in &mut sources {
        source.until_serves("one").await;
    }
    sources[0].reject();
    sources[0].until_serves("two").await;
    assert_eq!(
        serves(&sources[1].states.borrow()),
        Some("one"),
        "nobody rejected it there"
    );
    assert_eq!(sources[1].states.borrow().rejections_in_a_row, 0);
    // It was revoked: the others meet that too.
    for source in &mut sources[1..] {
        source.reject();
        source.until_serves("two").await;
    }
    assert_eq!(script.requests(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_rejects_every_token_costs_the_others_nothing() {
    let clock = Clock::starting_at(start());
    let steps = ["one", "two", "three", "four"].map(|token| issue(token, 3600));
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut picky = Source::start(&script, slot(), policy(), &clock);
    let mut content = Source::start(&script, slot(), policy(), &clock);
    for token in ["one", "two", "three"] {
        picky.until_serves(token).await;
        picky.reject();
    }
    picky.until_serves("four").await;
    assert_eq!(script.requests(), [0, 0, 10, 30], "ever more slowly");
    let state = content.states.borrow_and_update().clone();
    assert_eq!((serves(&state), state.rejections_in_a_row), (Some("one"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_each_source_s_and_is_met_once_by_those_that_waited_for_it() {
    let clock = Clock::starting_at(start());
    let refused = || {
        Error::Rejected(ErrorResponse {
            code: ErrorCode::Basic(BasicErrorResponseType::InvalidClient),
            description: None,
            status: 401,
            retry_after: None,
            advice: None,
        })
    };
    let steps = [Step::FailLate(refused(), 5), issue("one", 3600)];
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut sources = [0, 1, 2].map(|_| Source::start(&script, slot(), policy(), &clock));
    for source in &mut sources {
        let failed = state(&mut source.states, |state| state.last_error.is_some()).await;
        assert_eq!(failed.last_error.unwrap().error, refused());
    }
    assert_eq!(script.requests(), [0]);
    for source in &mut sources {
        source.until_serves("one").await;
        assert!(source.states.borrow().last_error.is_none());
    }
    assert_eq!(script.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_while_others_wait_for_its_request_leaves_it_to_them() {
    let clock = Clock::starting_at(start());
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, [Step::Hang, issue("one", 3600)]),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let first = Source::start(&script, slot(), policy(), &clock);
    sleep(1).await;
    let mut second = Source::start(&script, slot(), policy(), &clock);
    sleep(1).await;
    assert_eq!(script.requests(), [0]);
    drop(first);
    second.until_serves("one").await;
    assert_eq!(script.requests(), [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn another_namespace_another_secret_and_demanded_scopes_are_requested_for_themselves() {
    let clock = Clock::starting_at(start());
    let scoped = |token, scope| Step::IssueScoped {
        token,
        scope: Some(scope),
    };
    let steps = [
        scoped("one", "read"),
        scoped("of-other-namespace", "read"),
        scoped("of-other-secret", "read"),
        scoped("with-more", "read write"),
    ];
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let mut here = Source::start(&script, tokens.slot("apps", digest("s3cret")), policy(), &clock);
    here.until_serves("one").await;
    let mut there = Source::start(&script, tokens.slot("other", digest("s3cret")), policy(), &clock);
    there.until_serves("of-other-namespace").await;
    let mut other = Source::start(&script, tokens.slot("apps", digest("other")), policy(), &clock);
    other.until_serves("of-other-secret").await;
    let mut beside = Source::start(&script, tokens.slot("apps", digest("s3cret")), policy(), &clock);
    beside.until_serves("one").await;
    let id = here.states.borrow().token.as_ref().unwrap().id.clone();
    here.source.demand_scopes(&id, vec!["write".into()]);
    here.until_serves("with-more").await;
    assert_eq!(
        serves(&beside.states.borrow()),
        Some("one"),
        "one server's demands are no other's"
    );
    let mut late = Source::start(&script, tokens.slot("apps", digest("s3cret")), policy(), &clock);
    late.until_serves("one").await;
    assert_eq!(script.requests().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_no_source_is_of_any_more_is_forgotten() {
    let clock = Clock::starting_at(start());
    let steps = [issue("one", 3600), issue("two", 3600)];
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let mut first = Source::start(&script, tokens.slot("apps", digest("s3cret")), policy(), &clock);
    first.until_serves("one").await;
    drop(first);
    // Its task ends.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut second = Source::start(&script, tokens.slot("apps", digest("s3cret")), policy(), &clock);
    second.until_serves("two").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_tokens_are_its_own_alone_shares_none() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [
            issue("one", 3600),
            Step::Fail(unavailable(None)),
            issue("two", 3600),
        ],
    );
    let mut first = Source::start(&script, None, policy(), &clock);
    first.until_serves("one").await;
    let mut second = Source::start(&script, None, policy(), &clock);
    second.until_serves("two").await;
}

/// As where a certificate authority's file, or the place of the secret, is another one: the registration is the same.
#[tokio::test(start_paused = true)]
async fn a_source_that_gets_another_client_requests_a_new_token_and_renews_that_ahead_of_its_end() {
    let clock = Clock::starting_at(start());
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, [issue("one", 3600), issue("two", 3600)]),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let replace = |source: &Source| {
        let requester = SharedRequester::new(script.clone(), slot(), clock.clone());
        source.source.replace(requester);
    };
    let mut sources = [0, 1].map(|_| Source::start(&script, slot(), policy(), &clock));
    for source in &mut sources {
        source.until_serves("one").await;
    }
    sleep(100).await;
    for source in &mut sources {
        replace(source);
        source.until_serves("two").await;
        let state = source.states.borrow().clone();
        let next = crate::seconds(state.next_attempt_at);
        assert_eq!(next, 100 + 2412, "two thirds of its life, not its end");
    }
    assert_eq!(
        script.requests(),
        [0, 100],
        "the other one takes what was requested"
    );
}

/// As where its Secret was deleted and is there again, while an equal resource had its own all along.
#[tokio::test(start_paused = true)]
async fn a_source_that_goes_on_with_the_token_of_the_others_does_not_take_it_for_a_new_one() {
    let clock = Clock::starting_at(start());
    let steps = [issue("one", 3600), issue("two", 3600)];
    let (tokens, script) = (SharedTokens::default(), Script::new(&clock, steps));
    let slot = || tokens.slot("apps", digest("s3cret"));
    let mut other = Source::start(&script, slot(), policy(), &clock);
    other.until_serves("one").await;
    let token = other.states.borrow().token.clone().unwrap();
    sleep(100).await;
    let requester = || SharedRequester::new(script.clone(), slot(), clock.clone());
    let source = TokenSource::resume(requester(), policy(), clock.clone(), token, None);
    let mut states = source.subscribe();
    source.replace(requester());
    let renewed = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(crate::seconds(renewed.next_attempt_at), 100 + 2412);
    // The MCP server does not take what it has: the one that the others have is another one.
    other.reject();
    other.until_serves("two").await;
    assert_eq!(script.requests(), [0, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unstated_life_is_taken_within_half_of_the_life_that_is_assumed() {
    let clock = Clock::starting_at(start());
    let unstated = |token| Step::Issue {
        token,
        expires_in: None,
        takes: 0,
    };
    let (tokens, script) = (
        SharedTokens::default(),
        Script::new(&clock, ["one", "two"].map(unstated)),
    );
    let slot = || tokens.slot("apps", digest("s3cret"));
    let hour = Policy {
        assumed_lifetime: Duration::from_secs(3600),
        ..policy()
    };
    let mut first = Source::start(&script, slot(), hour, &clock);
    first.until_serves("one").await;
    sleep(1000).await;
    let mut second = Source::start(&script, slot(), hour, &clock);
    second.until_serves("one").await;
    assert_eq!(
        first.states.borrow().next_attempt_at,
        second.states.borrow().next_attempt_at
    );
    // One that takes it for older than that has its own requested.
    let mut third = Source::start(&script, slot(), policy(), &clock);
    third.until_serves("two").await;
    assert_eq!(script.requests(), [0, 1000]);
}
