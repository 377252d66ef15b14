use mcp_auth_protocol::sync::Report;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_sidecar_is_up_to_date_once_it_has_applied_what_was_sent() {
    let (sidecars, _changed) = Sidecars::new();
    let entry = sidecars.enter("uid", "apps", "litellm-0");
    assert!(!sidecars.get("uid").unwrap().is_up_to_date());
    entry.record_sent("1");
    entry.record_report(Report {
        applied: Some("1".into()),
        ..Report::default()
    });
    assert!(sidecars.get("uid").unwrap().is_up_to_date());
    entry.record_sent("2");
    assert!(
        sidecars.get("uid").unwrap().is_up_to_date(),
        "it may be taking it over"
    );
    tokio::time::advance(GRACE).await;
    assert!(!sidecars.get("uid").unwrap().is_up_to_date());
}

#[tokio::test(start_paused = true)]
async fn a_status_is_looked_at_for_a_sidecar_that_stays_behind_and_not_for_each_snapshot() {
    let (sidecars, mut changed) = Sidecars::new();
    let entry = sidecars.enter("uid", "apps", "litellm-0");
    let apply = |revision: &str| {
        entry.record_report(Report {
            applied: Some(revision.into()),
            ..Report::default()
        });
    };
    entry.record_sent("1");
    apply("1");
    while changed.try_recv().is_ok() {}
    entry.record_sent("2");
    entry.tell_if_overdue();
    apply("2");
    entry.record_sent("3");
    assert!(changed.try_recv().is_err(), "it is served all the while");

    tokio::time::advance(GRACE).await;
    for _ in 0..3 {
        entry.tell_if_overdue();
    }
    assert_eq!(changed.try_recv().unwrap(), "apps");
    assert!(changed.try_recv().is_err(), "once");
    apply("3");
    assert_eq!(changed.try_recv().unwrap(), "apps", "it serves again");
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_that_ends_leaves_the_newer_one_alone() {
    let (sidecars, _changed) = Sidecars::new();
    let old = sidecars.enter("uid", "apps", "litellm-0");
    let new = sidecars.enter("uid", "apps", "litellm-0");
    new.record_sent("1");
    old.record_sent("0");
    drop(old);
    tokio::time::sleep(2 * DISCONNECT_GRACE).await;
    assert_eq!(sidecars.get("uid").unwrap().sent_revision.as_deref(), Some("1"));
    drop(new);
    tokio::time::sleep(2 * DISCONNECT_GRACE).await;
    assert!(sidecars.get("uid").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_shorter_than_the_grace_period_changes_nothing() {
    let (sidecars, mut changed) = Sidecars::new();
    let applied = Report {
        applied: Some("1".into()),
        ..Report::default()
    };
    let entry = sidecars.enter("uid", "apps", "litellm-0");
    entry.record_sent("1");
    entry.record_report(applied.clone());
    while changed.try_recv().is_ok() {}

    drop(entry);
    tokio::time::sleep(DISCONNECT_GRACE / 2).await;
    assert!(sidecars.get("uid").unwrap().is_up_to_date());
    let entry = sidecars.enter("uid", "apps", "litellm-0");
    entry.record_report(applied);
    tokio::time::sleep(2 * DISCONNECT_GRACE).await;
    assert!(sidecars.get("uid").unwrap().is_up_to_date());
    assert!(changed.try_recv().is_err(), "no status need be looked at");

    drop(entry);
    tokio::time::sleep(2 * DISCONNECT_GRACE).await;
    assert!(sidecars.get("uid").is_none());
    assert_eq!(changed.recv().await.as_deref(), Some("apps"));
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_at_a_follower_counts_at_the_leader_as_one_of_its_own() {
    let ((follower, _at_follower), (leader, _at_leader)) = (Sidecars::new(), Sidecars::new());
    let entry = follower.enter("uid", "apps", "litellm-0");
    entry.record_sent("1");
    entry.record_report(Report {
        applied: Some("1".into()),
        restart_needed_for: vec!["tools".into()],
        notices: vec![Problem::new("Noticed", "by the sidecar")],
        ..Report::default()
    });
    let forward = || {
        let (uid, SidecarChange::Whole(forwarded)) = follower.changed_since(0, true).pop().unwrap() else {
            panic!("the leader knows nothing of it yet");
        };
        let line = serde_json::to_string(&forwarded).unwrap();
        (uid, serde_json::from_str::<ForwardedSidecar>(&line).unwrap())
    };
    let (uid, forwarded) = forward();
    let at_leader = leader.enter(&uid, "apps", "litellm-0");
    at_leader.record_forwarded(forwarded);
    let known = leader.get("uid").unwrap();
    assert!(known.is_up_to_date());
    assert_eq!(known.restart_needed_for, ["tools"]);
    assert_eq!(known.notices.len(), 1);

    entry.record_sent("2");
    at_leader.record_forwarded(forward().1);
    tokio::time::advance(GRACE / 2).await;
    // The same again, as after another change, is not sent again.
    at_leader.record_forwarded(forward().1);
    assert!(leader.get("uid").unwrap().is_taking_over());
    tokio::time::advance(GRACE / 2).await;
    assert!(!leader.get("uid").unwrap().is_up_to_date());

    let revision = *follower.subscribe().borrow();
    drop(entry);
    assert_eq!(
        follower.changed_since(revision, true),
        [("uid".to_owned(), SidecarChange::Gone)]
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_sidecar_that_takes_a_snapshot_over_the_leader_is_told_no_more_than_that() {
    let ((follower, _at_follower), (leader, _at_leader)) = (Sidecars::new(), Sidecars::new());
    let entry = follower.enter("uid", "apps", "litellm-0");
    entry.record_report(Report {
        applied: Some("1".into()),
        restart_needed_for: vec!["tools".into()],
        ..Report::default()
    });
    let at_leader = leader.enter("uid", "apps", "litellm-0");
    let (_, SidecarChange::Whole(first)) = follower.changed_since(0, true).pop().unwrap() else {
        panic!("the leader knows nothing of it yet");
    };
    at_leader.record_forwarded(*first);

    let before = *follower.subscribe().borrow();
    entry.record_sent("2");
    entry.record_applied("2".into());
    let (_, change) = follower.changed_since(before, true).pop().unwrap();
    let SidecarChange::Revision { sent, applied } = change else {
        panic!("the whole report again: {change:?}");
    };
    at_leader.record_forwarded_revision(sent, applied);
    let known = leader.get("uid").unwrap();
    assert_eq!(
        (known.sent_revision.as_deref(), known.applied.as_deref()),
        (Some("2"), Some("2"))
    );
    assert_eq!(known.restart_needed_for, ["tools"], "the rest is as it was");
    let (_, older) = follower.changed_since(before, false).pop().unwrap();
    assert!(
        matches!(older, SidecarChange::Whole(_)),
        "a leader of before reads nothing else"
    );

    entry.record_report(Report {
        applied: Some("2".into()),
        ..Report::default()
    });
    let (_, change) = follower.changed_since(before, true).pop().unwrap();
    assert!(matches!(change, SidecarChange::Whole(_)), "{change:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_awaits_the_sidecars_that_it_has_never_seen() {
    let (sidecars, _changed) = Sidecars::new();
    assert!(sidecars.get("uid").is_none());
    let until = sidecars.await_all();
    assert!(sidecars.get("uid").unwrap().is_awaited);
    let _entry = sidecars.enter("uid", "apps", "litellm-0");
    assert!(!sidecars.get("uid").unwrap().is_awaited, "it has come");
    tokio::time::sleep_until(until).await;
    assert!(sidecars.get("uid-2").is_none());
}
