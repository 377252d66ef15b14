//! Replicas where there is no Lease: somebody deleted it, or there was none yet.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_comes_back_and_its_holder_leads_on() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    let second = cluster.replica("second");
    tokio::time::sleep(20 * SECOND).await;
    for _ in 0..10 {
        cluster.delete();
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(cluster.holder().as_deref(), Some("first"));
        assert!(first.leads() && !second.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_while_the_lease_is_deleted_does_not_lead_beside_its_holder() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    tokio::time::sleep(20 * SECOND).await;
    cluster.delete();
    let second = cluster.replica("second");
    let mut leads = second.leads.clone();
    tokio::time::sleep(60 * SECOND).await;
    assert!(first.leads() && !second.leads());
    assert!(!leads.has_changed().unwrap(), "nor did it in between");
    assert_eq!(cluster.holder().as_deref(), Some("first"));

    // Nor where the holder cannot make it anew: then it stops by its own clock first.
    first.path.send_replace(Path::Silent);
    let cut = Instant::now();
    cluster.delete();
    let mut third = cluster.replica("third");
    tokio::select! {
        biased;
        () = first.until(false) => {}
        _ = leads.wait_for(|leads| *leads) => panic!("two lead"),
        () = third.until(true) => panic!("two lead"),
    }
    assert!(cut.elapsed() <= Timing::default().renew_deadline);
    tokio::time::sleep(20 * SECOND).await;
    assert!(second.leads() != third.leads(), "one of them leads now");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_could_not_look_for_a_while_does_not_take_a_deleted_lease_from_its_holder() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    let second = cluster.replica("second");
    tokio::time::sleep(5 * SECOND).await;
    second.path.send_replace(Path::Failing);
    tokio::time::sleep(60 * SECOND).await;
    cluster.delete();
    second.path.send_replace(Path::Open);
    let leads = second.leads.clone();
    tokio::time::sleep(60 * SECOND).await;
    assert!(first.leads() && !leads.has_changed().unwrap());
    assert_eq!(cluster.holder().as_deref(), Some("first"));
}

/// The first one could not look until the Lease was deleted.
async fn the_first_comes_back_and_the_second_leads_on(cluster: &Cluster, first: &Replica, second: &Replica) {
    let leads = first.leads.clone();
    delete_after_renewal(cluster).await;
    first.path.send_replace(Path::Open);
    tokio::time::sleep(60 * SECOND).await;
    assert!(second.leads() && !leads.has_changed().unwrap());
    assert_eq!(cluster.holder().as_deref(), Some("second"));
}

/// Deletes the Lease when its holder has just renewed it, so that another replica looks before that makes it anew.
async fn delete_after_renewal(cluster: &Cluster) {
    let before = cluster.spec();
    while cluster.spec() == before {
        tokio::time::sleep(SECOND / 100).await;
    }
    cluster.delete();
}

#[tokio::test(start_paused = true)]
async fn a_former_leader_that_missed_its_successor_does_not_take_a_deleted_lease_from_it() {
    let cluster = Cluster::default();
    let mut first = cluster.replica("first");
    first.until(true).await;
    let mut second = cluster.replica("second");
    tokio::time::sleep(5 * SECOND).await;
    first.path.send_replace(Path::Failing);
    first.until(false).await;
    second.until(true).await;
    the_first_comes_back_and_the_second_leads_on(&cluster, &first, &second).await;
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_made_the_certificates_and_could_not_look_until_another_led_waits_like_it() {
    let cluster = Cluster::default();
    let first = cluster.replica_that("first", true);
    first.path.send_replace(Path::Failing);
    let mut second = cluster.replica("second");
    second.until(true).await;
    the_first_comes_back_and_the_second_leads_on(&cluster, &first, &second).await;
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_made_the_certificates_leads_at_once_and_waits_like_any_other_once_there_was_a_lease()
 {
    let cluster = Cluster::default();
    let began = Instant::now();
    let mut first = cluster.replica_that("first", true);
    first.until(true).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());

    let cluster = Cluster::default();
    let mut second = cluster.replica("second");
    second.until(true).await;
    let first = cluster.replica_that("first", true);
    let leads = first.leads.clone();
    tokio::time::sleep(5 * SECOND).await;
    cluster.delete();
    tokio::time::sleep(60 * SECOND).await;
    assert!(second.leads() && !leads.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_finds_certificates_and_no_lease_leads_after_the_time_of_one() {
    let cluster = Cluster::default();
    let began = Instant::now();
    cluster.replica("first").until(true).await;
    let lease = Timing::default().lease_duration;
    assert!(
        began.elapsed() >= lease && began.elapsed() <= lease + 2 * SECOND,
        "{:?}",
        began.elapsed()
    );
}
