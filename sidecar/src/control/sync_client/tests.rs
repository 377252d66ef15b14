//! Against an operator in memory, with a clock that stands still while anything is left to do.

pub(crate) mod operator;
mod upgrade;

use secrecy::ExposeSecret;
use tokio::time::Instant;

use mcp_auth_protocol::sync::Credential;

use super::*;
use operator::{Authority, Log, Operator, SECRET, refusal};

#[test]
fn waits_double_up_to_the_limit_and_chance_takes_up_to_half_off() {
    let timing = Timing {
        backoff: (Duration::from_secs(1), Duration::from_secs(5)),
        ..Timing::default()
    };
    let waits = [0, 1, 2, 3, u32::MAX].map(|failures| timing.retry_wait(failures, 1.0));
    assert_eq!(waits, [1, 2, 4, 5, 5].map(Duration::from_secs));
    assert_eq!(timing.retry_wait(2, 0.0), Duration::from_secs(2));
    assert_eq!(timing.retry_wait(2, 0.5), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn takes_each_snapshot_over_and_reports_it() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer first-identity");
    assert_eq!(
        (call.request.method(), call.request.uri().path()),
        (&Method::POST, sync::PATH)
    );
    let mut stream = call.accept();
    let first = stream.report().await;
    assert_eq!((first.version.as_str(), first.applied), ("1.2.3", None));

    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
    {
        let applied = operator.applied.lock().unwrap();
        let Credential::Bearer { token, .. } = &applied[0].servers[0].credential else {
            panic!()
        };
        assert_eq!(token.expose_secret(), SECRET);
    }

    operator
        .reports
        .send_modify(|report| report.restart_needed_for = vec!["tools".into()]);
    let changed = stream.report().await;
    assert_eq!(
        (changed.applied.as_deref(), changed.restart_needed_for),
        (Some("r1"), vec!["tools".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn takes_a_delta_over_as_the_snapshot_that_it_leads_to() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    let capabilities = stream.report().await.capabilities;
    assert_eq!(capabilities, [Capability::Deltas, Capability::Answers]);
    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
    stream
        .send(r#"{"revision":"r2","base":"r1","servers":[],"removed":["tools"]}"#)
        .await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r2"));
    let applied = operator.applied.lock().unwrap();
    assert_eq!([applied[0].servers.len(), applied[1].servers.len()], [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_taken_over_is_acknowledged_and_nothing_repeated_to_an_operator_that_reads_that() {
    let authority = Authority::new();
    for reads in [true, false] {
        let mut operator = Operator::followed_with(&authority.pem);
        operator
            .reports
            .send_modify(|report| report.restart_needed_for = vec!["tools".into()]);
        let mut stream = operator.call(&authority).await.accept();
        let first = stream.report().await;
        assert_eq!(
            first.restart_needed_for,
            ["tools"],
            "a stream begins with the whole"
        );
        let mut snapshot = operator::snapshot("r1", "");
        snapshot.capabilities = Vec::from_iter(reads.then_some(Capability::Acknowledgements));
        stream.send(&serde_json::to_string(&snapshot).unwrap()).await;
        let second = stream.report().await;
        let acknowledged = second.acknowledged.or(second.applied);
        assert_eq!(acknowledged.as_deref(), Some("r1"));
        assert_eq!(second.restart_needed_for.is_empty(), reads);

        operator
            .reports
            .send_modify(|report| report.restart_needed_for.clear());
        let third = stream.report().await;
        assert_eq!((third.applied.as_deref(), third.acknowledged), (Some("r1"), None));
        assert!(
            third.restart_needed_for.is_empty(),
            "what has changed is reported whole"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_delta_without_its_snapshot_ends_the_stream_and_the_next_begins_with_the_whole() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    stream.cut();
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    // What the stream before was sent is not what this one was.
    stream
        .send(r#"{"revision":"r2","base":"r1","servers":[],"removed":["tools"]}"#)
        .await;
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r3", "").await;
    while stream.report().await.applied.as_deref() != Some("r3") {}
    assert_eq!(operator.revisions(), ["r1", "r3"]);
}

#[tokio::test(start_paused = true)]
async fn comes_back_after_a_cut_with_the_token_of_the_day() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    std::fs::write(operator.token_file.path(), "second-identity").unwrap();
    stream.cut();

    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer second-identity");
    let report = call.accept().report().await;
    assert_eq!(
        report.applied.as_deref(),
        Some("r1"),
        "what is in use is said at once"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_longer_each_time_until_a_stream_has_lived_for_half_a_minute() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut last = None;
    let mut gaps = Vec::new();
    for _ in 0..12 {
        let (at, pipe) = operator.pipe().await;
        drop(pipe);
        gaps.extend(last.map(|last| at - last));
        last = Some(at);
    }
    for (gap, most) in gaps.iter().zip([
        250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000,
    ]) {
        let most = Duration::from_millis(most);
        // The timer of tokio counts whole milliseconds.
        assert!(
            most / 2 <= *gap && *gap <= most + Duration::from_millis(2),
            "{gaps:?}"
        );
    }

    for (lives, [least, most]) in [(29, [15_000, 30_002]), (31, [125, 252])] {
        let mut stream = operator.call(&authority).await.accept();
        stream.report().await;
        stream.snapshot("r1", "").await;
        tokio::time::sleep(Duration::from_secs(lives)).await;
        let cut = Instant::now();
        stream.cut();
        let (again, pipe) = operator.pipe().await;
        drop(pipe);
        let gap = again - cut;
        assert!(
            Duration::from_millis(least) <= gap && gap <= Duration::from_millis(most),
            "after {lives} s: {gap:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn looks_for_the_replica_that_leads_every_second_at_least() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut last = None;
    let mut servers = Vec::new();
    for _ in 0..12 {
        let call = operator.call(&authority).await;
        let at = call.at;
        servers.push(call.refuse(StatusCode::SERVICE_UNAVAILABLE, &refusal("NotLeading")));
        if let Some(last) = last.replace(at) {
            assert!(at - last <= Duration::from_millis(1_002), "{:?}", at - last);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_renewed_is_no_warning() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    for revision in ["r1", "r2", "r3"] {
        let mut stream = operator.call(&authority).await.accept();
        stream.report().await;
        stream.snapshot(revision, "").await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        stream.cut();
    }
    operator.call(&authority).await;
    let text = log.text();
    assert_eq!(
        text.matches("the stream ended; connecting again").count(),
        3,
        "{text}"
    );
    assert!(!text.contains("WARN"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_stream_and_silence_ends_it() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let call = operator.call(&authority).await;
    let began = call.at;
    let mut stream = call.accept();
    stream.report().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        stream.send("").await;
    }
    stream.snapshot("r1", "").await;
    stream.report().await;
    assert!(
        operator.pipes.try_recv().is_err(),
        "it is still the first connection"
    );
    let (again, _pipe) = operator.pipe().await;
    assert!(again - began >= Duration::from_secs(445), "{:?}", again - began);
    assert_eq!(operator.revisions(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_with_an_empty_line_and_a_heartbeat_with_nothing() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
    for _ in 0..2 {
        stream.send("").await;
        stream.send(sync::QUESTION).await;
        assert_eq!(stream.line().await, "");
    }
    // What has changed meanwhile goes up as ever.
    stream.send("").await;
    stream.snapshot("r2", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r2"));
    assert_eq!(operator.revisions(), ["r1", "r2"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_never_answers_is_left() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let (at, _silent_before_tls) = operator.pipe().await;
    let call = operator.call(&authority).await;
    assert!(call.at - at >= Timing::default().connect);
    let (again, _pipe) = operator.pipe().await;
    assert!(
        again - call.at >= Timing::default().silence,
        "nor does it wait for ever for the answer's head"
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_replaces_the_authority_for_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut operator = Operator::followed_with(&old.pem);
    let mut stream = operator.call(&old).await.accept();
    stream.report().await;
    stream.snapshot("r1", "no certificate at all").await;
    stream.report().await;
    stream.snapshot("r2", &new.pem).await;
    stream.report().await;
    stream.cut();

    let (_, pipe) = operator.pipe().await;
    assert!(
        old.acceptor.accept(pipe).await.is_err(),
        "the old authority is not trusted any more"
    );
    operator.call(&new).await.accept().report().await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_gets_no_token() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let mut operator = Operator::followed_with(&ours.pem);
    let (_, pipe) = operator.pipe().await;
    assert!(stranger.acceptor.accept(pipe).await.is_err());
    operator.call(&ours).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_no_snapshot_ends_the_stream() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    for line in ["no json", r#"{"revision":7}"#] {
        let mut stream = operator.call(&authority).await.accept();
        stream.report().await;
        stream.send(line).await;
    }
    operator.call(&authority).await;
    assert!(operator.revisions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endless_line_ends_the_stream_before_it_fills_the_memory() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    let endless = async {
        for _ in 0..64 {
            if !stream.send_part(vec![b'x'; 1024 * 1024]).await {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = operator.call(&authority) => {}
        () = endless => panic!("64 MiB of one line were taken"),
    }
    assert!(operator.revisions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_may_arrive_in_pieces_and_two_at_once() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    let [first, second] = ["r1", "r2"].map(|revision| {
        let snapshot = operator::snapshot(revision, "");
        serde_json::to_string(&snapshot).unwrap()
    });
    let (begin, end) = first.split_at(first.len() / 2);
    assert!(stream.send_part(begin.into()).await);
    assert!(stream.send_part(format!("{end}\n\n{second}\n").into()).await);
    while stream.report().await.applied.as_deref() != Some("r2") {}
    assert_eq!(operator.revisions(), ["r1", "r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_and_again_when_it_changes() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut servers = Vec::new();
    for reason in ["NotEntitled", "NotEntitled", "NotEntitled", "PodGone"] {
        servers.push(
            operator
                .call(&authority)
                .await
                .refuse(StatusCode::FORBIDDEN, &refusal(reason)),
        );
    }
    // The second time without an upgrade, of which whoever answers so may know nothing.
    for _ in 0..2 {
        let call = operator.call(&authority).await;
        servers.push(call.refuse(StatusCode::SERVICE_UNAVAILABLE, "<html>"));
    }
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;

    let text = log.text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        warnings[0].contains("403") && warnings[0].contains("NotEntitled: the pod is not entitled"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("PodGone"));
    assert!(warnings[2].contains("503") && warnings[2].contains("does not say why"));
    assert!(text.contains("connected to the operator again"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_token_file_is_named() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let path = operator.token_file.path().to_owned();
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    std::fs::write(&path, "late-identity").unwrap();
    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer late-identity");
    let text = log.text();
    assert_eq!(text.matches("WARN").count(), 1, "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    std::fs::write(&path, "").unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_token_reaches_the_log() {
    let log = Log::default();
    let _guard = log.capture();
    tracing::trace!("at every level");
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    // A token where another type is expected, which serde would quote.
    stream
        .send(&format!(
            r#"{{"revision":"r2","operatorCa":"","servers":"{SECRET}"}}"#
        ))
        .await;
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.send(&format!(r#"{{"revision":"r3" "{SECRET}"#)).await;
    operator.call(&authority).await;

    let text = log.text();
    assert!(
        text.contains("StreamInvalid") && text.contains("at every level"),
        "the log is captured: {text}"
    );
    assert!(!text.contains(SECRET), "{text}");
    assert!(!text.contains("first-identity"), "{text}");
}

#[tokio::test]
async fn speaks_over_tcp() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint: Endpoint = format!("https://{address}").parse().unwrap();
    let (connected, accepted) = tokio::join!(TcpConnector.connect(&endpoint), listener.accept());
    assert_eq!(connected.unwrap().local_addr().unwrap(), accepted.unwrap().1);
}
