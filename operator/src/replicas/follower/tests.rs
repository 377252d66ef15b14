use kube::runtime::watcher::Event;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{Changes, CredentialIdentity, CredentialState, TokenRefreshRequests};
use mcp_auth_protocol::sync::Report;

use super::*;
use crate::certificates::Certificates;

fn names(messages: &[FollowerLine]) -> Vec<String> {
    let mut names: Vec<_> = messages
        .iter()
        .map(|message| {
            let value = serde_json::to_value(message).unwrap();
            value["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn of_a_fleet_that_takes_one_snapshot_over_a_leader_that_reads_it_is_told_in_one_line() {
    let (sidecars, _changed) = Sidecars::new();
    let entries: Vec<_> = (0..2 * MAX_UIDS)
        .map(|number| sidecars.enter(&format!("uid-{number}"), "apps", "litellm"))
        .collect();
    let mut told = SidecarsTold::new(&sidecars);
    told.reads_revisions = true;
    assert_eq!(
        told.next_messages(&sidecars).len(),
        entries.len(),
        "each whole at first"
    );

    for reads in [true, false] {
        told.reads_shared_revisions = reads;
        for entry in &entries {
            entry.record_sent("2");
            entry.record_applied(format!("of {reads}"));
        }
        entries[0].record_report(Report {
            version: format!("of {reads}"),
            ..Report::default()
        });
        let messages = told.next_messages(&sidecars);
        match reads {
            true => assert_eq!(
                names(&messages),
                ["sidecar", "sidecarsRevision", "sidecarsRevision"]
            ),
            false => assert_eq!(messages.len(), entries.len(), "a leader of before reads no other"),
        }
        let chunks = in_chunks(&messages);
        assert!(chunks.len() < 10, "{}", chunks.len());
        let lines = chunks.concat();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let read: Vec<FollowerLine> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(names(&read), names(&messages));
    }
    assert!(told.next_messages(&sidecars).is_empty());
}

fn follower(client: LeaderClient, sidecars: Sidecars, knows_tokens: bool) -> Follower {
    Follower {
        client,
        identity: "follower".to_owned(),
        credentials: Credentials::new(Changes::default(), mpsc::unbounded_channel().0),
        resources: Resources::from_watches(Vec::new(), Vec::new(), Changes::default()).0,
        sidecars,
        refused: RefusedPods::new(mpsc::unbounded_channel().0),
        knows_tokens: watch::channel(knows_tokens).0,
    }
}

/// One that has no token file cannot follow anybody.
fn unable(leader: &watch::Sender<Leader>) -> LeaderClient {
    LeaderClient::new(Certificates::self_made(), &[], None, leader.subscribe())
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_follow_serves_from_memory_for_a_minute_and_for_longer_where_nobody_leads() {
    let led_by = |is_confirmed| Leader::Other {
        address: Some("127.0.0.1:1".parse().unwrap()),
        is_confirmed,
    };
    let second = Duration::from_secs(1);
    let (leader, _) = watch::channel(led_by(true));
    let follower = follower(unable(&leader), Sidecars::new().0, true);
    let mut knows_tokens = follower.knows_tokens.subscribe();
    let (_requests, mut requests) = TokenRefreshRequests::new();
    let script = async {
        sleep(LOST_AFTER - 5 * second).await;
        assert!(*knows_tokens.borrow(), "its sidecars stay");
        // Nobody is known to lead: there are no newer tokens than its own, however long that lasts.
        for nobody in [Leader::Unknown, led_by(false)] {
            leader.send_replace(nobody);
            sleep(10 * LOST_AFTER).await;
            assert!(*knows_tokens.borrow(), "{nobody:?}");
        }
        leader.send_replace(led_by(true));
        let since = Instant::now();
        knows_tokens.wait_for(|knows| !knows).await.unwrap();
        let lasted = since.elapsed();
        assert!(
            lasted >= LOST_AFTER && lasted <= LOST_AFTER + 2 * BACKOFF.1,
            "sidecars go to other replicas after {lasted:?}"
        );
    };
    tokio::select! {
        () = script => {}
        never = follower.run(&mut requests) => match never {},
    }
}

/// A leader as `publisher` is one: it reads nothing before it has sent all, and neither side of the stream holds much.
#[tokio::test(start_paused = true)]
async fn a_leader_that_sends_first_and_a_follower_with_much_to_tell_come_to_an_end() {
    let (sidecars, _changed) = Sidecars::new();
    let _entries: Vec<_> = (0..10_000)
        .map(|number| sidecars.enter(&format!("uid-{number}"), "apps", "litellm"))
        .collect();
    let (changes, _) = watch::channel(Leader::Unknown);
    let follower = follower(unable(&changes), sidecars, false);
    let (down, published) = mpsc::channel::<Result<LeaderLine, LineError>>(1);
    let published = futures::stream::unfold(published, |mut lines| async move {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    let (up, mut told) = mpsc::channel::<Bytes>(1);
    let leader = async {
        for number in 0..100 {
            // Over longer than a follower waits before it tells of its sidecars.
            sleep(DEBOUNCE / 10).await;
            let name = number.to_string();
            let line = LeaderLine::Withdrawn {
                namespace: "apps".to_owned(),
                name,
            };
            timeout(SYNC_SILENCE / 2, down.send(Ok(line)))
                .await
                .expect("it is read")
                .unwrap();
        }
        let complete = LeaderLine::Complete {
            reads_revisions: true,
            reads_shared_revisions: true,
        };
        down.send(Ok(complete)).await.unwrap();
        let mut lines = 0;
        while lines < 10_000 {
            let told = told.recv().await.expect("all are told");
            let told = told.split(|byte| *byte == b'\n');
            lines += told.filter(|line| !line.is_empty()).count();
        }
    };
    let (_requests, mut requests) = TokenRefreshRequests::new();
    let mut is_complete = false;
    tokio::select! {
        () = leader => {}
        ended = follower.exchange(published, up, &mut requests, &mut is_complete) => {
            panic!("it ends before all is told: {}", ended.unwrap_err());
        }
    }
    assert!(is_complete && *follower.knows_tokens.borrow());
}

fn resource(name: &str) -> McpServerAuth {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "apps"},
        "spec": {
            "server": {"name": name, "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

/// Follows a leader that says this, until it ends the stream.
async fn follows(follower: &Follower, said: Vec<Result<LeaderLine, LineError>>) -> FollowError {
    let (up, _told) = mpsc::channel::<Bytes>(100);
    let (_requests, mut requests) = TokenRefreshRequests::new();
    let mut is_complete = false;
    let said = futures::stream::iter(said);
    let Err(ended) = follower.exchange(said, up, &mut requests, &mut is_complete).await;
    assert!(is_complete);
    ended
}

fn complete() -> LeaderLine {
    LeaderLine::Complete {
        reads_revisions: true,
        reads_shared_revisions: true,
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_while_no_replica_led_is_withdrawn_and_what_is_there_stays() {
    let mut created_anew = resource("created-anew");
    created_anew.metadata.uid = Some("2".into());
    let listed = [
        Event::Init,
        Event::InitApply(resource("there")),
        Event::InitApply(created_anew),
        Event::InitDone,
    ];
    let events = futures::stream::iter(listed.map(Ok)).chain(futures::stream::pending());
    let (resources, mut watch) =
        Resources::from_watches(vec![None], vec![events.boxed()], Changes::default());
    while watch.next().await != crate::resources::ResourceEvent::Listed {}
    let (leader, _) = watch::channel(Leader::Unknown);
    let follower = Follower {
        resources,
        ..follower(unable(&leader), Sidecars::new().0, true)
    };
    for name in ["there", "gone", "created-anew"] {
        let mut resource = resource(name);
        resource.metadata.uid = Some("1".into());
        let state = CredentialState::pending(CredentialIdentity::for_resource(&resource));
        follower.credentials.publish(&ResourceRef::from(&resource), state);
    }
    let ended = follows(&follower, vec![Ok(complete())]).await;
    assert!(matches!(ended, FollowError::Ended), "{ended}");
    let known: Vec<_> = follower.credentials.resources().into_iter().collect();
    assert_eq!(known, [ResourceRef::from(&resource("there"))]);
}

/// A body with these lines, as it is read.
fn read<T: serde::de::DeserializeOwned + Send>(
    text: &str,
) -> impl Stream<Item = Result<T, LineError>> + Send {
    let body = Ok::<_, std::io::Error>(Bytes::copy_from_slice(text.as_bytes()));
    lines::<T>(futures::stream::iter([body]), MAX_LINE_BYTES)
}

#[tokio::test(start_paused = true)]
async fn a_line_that_a_replica_of_another_version_says_in_another_way_costs_no_other() {
    let (leader, _) = watch::channel(Leader::Unknown);
    let follower = follower(unable(&leader), Sidecars::new().0, true);
    let text = concat!(
        "{\"kind\":\"withdrawn\",\"namespace\":\"apps\",\"name\":\"a\"}\n",
        "{\"kind\":\"podRefused\",\"pod\":{\"fromTheFuture\":1}}\n",
        "{\"kind\":\"complete\"}\n",
    );
    let ended = follows(&follower, read(text).collect().await).await;
    assert!(matches!(ended, FollowError::Ended), "{ended}");

    // The leader's side.
    let refresh = |why: &str| {
        format!(
            "{{\"kind\":\"refresh\",\"namespace\":\"apps\",\"name\":\"a\",\"token\":\"1\",\"why\":{why}}}\n"
        )
    };
    let good = refresh("\"unauthorized\"");
    let text = format!("{good}{}{good}", refresh("{\"fromTheFuture\":1}"));
    let said: Vec<_> = read::<FollowerLine>(&text).collect().await;
    let refreshes = said
        .iter()
        .filter(|line| matches!(line, Ok(FollowerLine::Refresh { .. })));
    assert_eq!((refreshes.count(), said.len()), (2, 3));
}
