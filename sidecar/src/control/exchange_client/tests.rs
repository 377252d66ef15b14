//! Against an operator in memory.

use std::io::Write;

use mcp_auth_protocol::sync::Credential;
use secrecy::ExposeSecret;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::control::sync_client::testing::{Authority, Pipes, serve};

struct World {
    authority: Authority,
    pipes: mpsc::UnboundedReceiver<(Instant, DuplexStream)>,
    ca: OperatorCa,
    token_file: tempfile::NamedTempFile,
    at_operator: Arc<OperatorTokenExchanger<Pipes>>,
}

impl World {
    fn new() -> Self {
        let mut token_file = tempfile::NamedTempFile::new().unwrap();
        writeln!(token_file, "first-identity").unwrap();
        let authority = Authority::new();
        let ca = OperatorCa::new(&authority.pem);
        let (dial, pipes) = Pipes::new();
        let pod = Pod {
            namespace: "apps".into(),
            name: "litellm-0".into(),
            uid: "u1".into(),
        };
        let at_operator = OperatorTokenExchanger::new(
            "https://operator.test:8443".parse().unwrap(),
            ca.clone(),
            token_file.path().to_owned(),
            pod,
            Timing::default(),
            dial,
        );
        Self {
            authority,
            pipes,
            ca,
            token_file,
            at_operator: Arc::new(at_operator),
        }
    }

    /// The next connection. Of the clock that stands still, a minute is no time.
    async fn pipe(&mut self) -> DuplexStream {
        let pipe = timeout(Duration::from_secs(60), self.pipes.recv()).await;
        pipe.expect("a connection is opened").unwrap().1
    }

    fn ask(&self) -> JoinHandle<Result<Credential, Problem>> {
        let ask = UserTokenRequest {
            server: "tools".into(),
            url: "https://Tools.example.com".into(),
            subject: "ada-s3cret".into(),
            refused: Some("7".into()),
        };
        tokio::spawn(self.at_operator.exchange(ask))
    }
}

fn issued() -> String {
    r#"{"credential":{"kind":"bearer","id":"8","token":"adas-own","expiresAt":1800000000}}"#.to_owned()
}

fn not_leading() -> String {
    r#"{"reason":"NotLeading","message":"this replica does not lead: connect again"}"#.to_owned()
}

#[tokio::test(start_paused = true)]
async fn asks_as_this_pod_and_over_one_connection() {
    let mut world = World::new();
    let mut calls = None;
    for identity in ["first-identity", "second-identity"] {
        let asking = world.ask();
        if calls.is_none() {
            let pipe = world.pipe().await;
            calls = Some(serve(&world.authority, pipe).await);
        }
        let (request, answer) = calls.as_mut().unwrap().recv().await.unwrap();
        assert_eq!(
            (request.method(), request.uri().path()),
            (&Method::POST, EXCHANGE_PATH)
        );
        assert_eq!(request.headers()[AUTHORIZATION], format!("Bearer {identity}"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let expected = serde_json::json!({
            "pod": {"namespace": "apps", "name": "litellm-0", "uid": "u1"},
            "server": "tools", "url": "https://Tools.example.com",
            "subjectToken": "ada-s3cret", "refused": "7",
        });
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
            expected
        );
        answer(200, issued());
        let Credential::Bearer { id, token, .. } = asking.await.unwrap().unwrap() else {
            panic!("it is a token")
        };
        assert_eq!((id.as_str(), token.expose_secret()), ("8", "adas-own"));
        std::fs::write(world.token_file.path(), "second-identity").unwrap();
    }
    assert!(world.pipes.try_recv().is_err(), "there is no second connection");
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_says_is_told_on_and_what_it_does_not_say_is_not_made_up() {
    let mut world = World::new();
    let mut asking = world.ask();
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    for (status, body, reason, message) in [
        (
            403,
            r#"{"reason":"NotEntitled","message":"not this pod"}"#,
            "NotEntitled",
            "not this pod",
        ),
        (502, "<html>", "OperatorRefused", "502"),
        (
            200,
            r#"{"credential":{"kind":"unavailable","reason":"a","message":"b"}}"#,
            "OperatorAnswerInvalid",
            "versions",
        ),
        (
            200,
            r#"{"credential":"t0p-s3cret"}"#,
            "OperatorAnswerInvalid",
            "versions",
        ),
        (200, "", "OperatorAnswerInvalid", "versions"),
    ] {
        let (_request, answer) = calls.recv().await.unwrap();
        answer(status, body.to_owned());
        let problem = asking.await.unwrap().unwrap_err();
        assert_eq!(problem.reason, reason);
        assert!(problem.message.contains(message), "{problem:?}");
        assert!(!problem.message.contains("s3cret"), "{problem:?}");
        asking = world.ask();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_opened_again() {
    let mut world = World::new();
    for _ in 0..2 {
        let asking = world.ask();
        let pipe = world.pipe().await;
        let mut calls = serve(&world.authority, pipe).await;
        let (_request, answer) = calls.recv().await.unwrap();
        answer(200, issued());
        assert!(asking.await.unwrap().is_ok());
        calls.cut();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_lead_is_left_for_the_one_that_does() {
    let mut world = World::new();
    let asking = world.ask();
    let mut followers = Vec::new();
    for _ in 0..3 {
        let pipe = world.pipe().await;
        let mut calls = serve(&world.authority, pipe).await;
        let (_request, answer) = calls.recv().await.unwrap();
        answer(503, not_leading());
        followers.push(calls);
    }
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(asking.await.unwrap().is_ok());

    let asking = world.ask();
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(
        asking.await.unwrap().is_ok(),
        "the connection that leads there is kept"
    );
}

#[tokio::test(start_paused = true)]
async fn where_no_replica_leads_that_is_said_in_the_end() {
    let mut world = World::new();
    let asking = world.ask();
    let mut followers = Vec::new();
    for _ in 0..=RETRY_DELAYS.len() {
        let pipe = world.pipe().await;
        let mut calls = serve(&world.authority, pipe).await;
        let (_request, answer) = calls.recv().await.unwrap();
        answer(503, not_leading());
        followers.push(calls);
    }
    assert_eq!(asking.await.unwrap().unwrap_err().reason, "NotLeading");
    assert!(world.pipes.try_recv().is_err(), "it is not tried for ever");

    let _asking = world.ask();
    world.pipe().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_would_say_too_is_not_asked_of_it() {
    let mut world = World::new();
    let asking = world.ask();
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(503, r#"{"reason":"ApiServer","message":"down"}"#.to_owned());
    assert_eq!(asking.await.unwrap().unwrap_err().reason, "ApiServer");
    assert!(world.pipes.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_disturbs_no_other_exchange() {
    let mut world = World::new();
    let late = world.ask();
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let _unanswered = calls.recv().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let running = world.ask();
    let (_request, answer) = calls.recv().await.unwrap();
    assert_eq!(late.await.unwrap().unwrap_err().reason, "OperatorSilent");
    answer(200, issued());
    assert!(running.await.unwrap().is_ok());

    let next = world.ask();
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(next.await.unwrap().is_ok());
    assert!(world.pipes.try_recv().is_err(), "all of that is one connection");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_without_a_word_is_left_in_time_for_another_attempt() {
    let mut world = World::new();
    let asking = world.ask();
    let mut pipe = world.pipe().await;
    let (mut relayed, far) = tokio::io::duplex(64 * 1024);
    let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut pipe, &mut relayed) => {}
            _ = is_cut => {}
        }
        // Both ends stay open, and nothing passes.
        std::future::pending::<()>().await;
        drop((pipe, relayed));
    });
    let mut gone = serve(&world.authority, far).await;
    let (_request, _answer) = gone.recv().await.unwrap();
    cut.send(()).unwrap();

    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_a_connection_share_one_attempt_and_its_failure() {
    let mut world = World::new();
    let began = Instant::now();
    let first = world.ask();
    let silent = world.pipe().await;
    let others: Vec<_> = (0..10).map(|_| world.ask()).collect();
    for asking in others.into_iter().chain([first]) {
        assert_eq!(asking.await.unwrap().unwrap_err().reason, "OperatorUnreachable");
    }
    assert!(
        began.elapsed() < 2 * Timing::default().connect,
        "nobody waits twice"
    );
    assert!(world.pipes.try_recv().is_err(), "there was no second attempt");
    drop(silent);

    let asking = world.ask();
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(asking.await.unwrap().is_ok(), "the failure is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_not_told_who_the_user_is_and_a_new_authority_is_trusted_at_once() {
    let mut world = World::new();
    let asking = world.ask();
    let pipe = world.pipe().await;
    assert!(Authority::new().acceptor.accept(pipe).await.is_err());
    assert_eq!(asking.await.unwrap().unwrap_err().reason, "OperatorNotTrusted");

    let new = Authority::new();
    world.ca.replace(&new.pem);
    let asking = world.ask();
    let pipe = world.pipe().await;
    let mut calls = serve(&new, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(asking.await.unwrap().is_ok());
}

/// As where the Service still leads to a replica that has just crashed.
#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_before_it_is_one_is_tried_again() {
    let mut world = World::new();
    let asking = world.ask();
    for _ in 0..3 {
        drop(world.pipe().await);
    }
    let pipe = world.pipe().await;
    let mut calls = serve(&world.authority, pipe).await;
    let (_request, answer) = calls.recv().await.unwrap();
    answer(200, issued());
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_cannot_be_reached_is_a_problem() {
    let mut world = World::new();
    let asking = world.ask();
    let silent = world.pipe().await;
    assert_eq!(asking.await.unwrap().unwrap_err().reason, "OperatorUnreachable");
    drop(silent);
    drop(world.pipes);
    let asking = tokio::spawn(world.at_operator.exchange(UserTokenRequest {
        server: "tools".into(),
        url: "https://Tools.example.com".into(),
        subject: "ada".into(),
        refused: None,
    }));
    assert_eq!(asking.await.unwrap().unwrap_err().reason, "OperatorUnreachable");
}
