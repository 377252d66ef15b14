use std::sync::{Arc, Mutex};

use super::*;

type Cache = SingleFlightCache<&'static str, u32, &'static str>;

/// Enters a request that ends at once.
fn store(cache: &mut Cache, key: &'static str, value: u32) {
    cache.start(key).expect("there is room");
    *cache.finish(key).expect("it was started") = value;
}

fn keys(cache: &mut Cache) -> Vec<&'static str> {
    let mut keys: Vec<_> = cache.iter_mut().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn all_that_ask_while_a_request_is_under_way_share_its_outcome() {
    let cache = Arc::new(Mutex::new(Cache::new(5)));
    let started = cache.lock().unwrap().start("ada").unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut cache = cache.lock().unwrap();
            let lookup = cache.lookup(&"ada").expect("it was entered");
            lookup.in_flight.expect("it is under way").clone()
        })
        .chain([started.in_flight()])
        .collect();
    let given_up = waiting[0].clone();
    drop(given_up);
    let finish = {
        let cache = Arc::clone(&cache);
        move |outcome: Option<u32>| {
            *cache.lock().unwrap().finish("ada").unwrap() = outcome.unwrap();
            "token"
        }
    };
    tokio::spawn(started.run(async { 7 }, finish));
    for waiting in waiting {
        assert_eq!(waiting.outcome().await, Some("token"));
    }
    let mut cache = cache.lock().unwrap();
    let lookup = cache.lookup(&"ada").unwrap();
    assert_eq!(*lookup.value, 7);
    assert!(lookup.in_flight.is_none(), "the next one is a new request");
}

#[tokio::test]
async fn a_request_that_panics_or_is_dropped_still_comes_to_an_end_for_all_that_wait() {
    let mut cache = Cache::new(5);
    let finish = |outcome: Option<()>| match outcome {
        Some(()) => "an outcome",
        None => "interrupted",
    };
    let started = cache.start("panics").unwrap();
    let waiting = started.in_flight();
    tokio::spawn(started.run(async { panic!("a bug in the request") }, finish));
    assert_eq!(waiting.outcome().await, Some("interrupted"));

    let started = cache.start("never polled").unwrap();
    let waiting = started.in_flight();
    drop(started.run(async {}, finish));
    assert_eq!(waiting.outcome().await, Some("interrupted"));

    let started = cache.start("cut off").unwrap();
    let waiting = started.in_flight();
    let task = tokio::spawn(started.run(std::future::pending(), finish));
    tokio::task::yield_now().await;
    task.abort();
    assert_eq!(waiting.outcome().await, Some("interrupted"));

    let started = cache.start("never run").unwrap();
    let waiting = started.in_flight();
    drop(started);
    assert_eq!(waiting.outcome().await, None);
}

#[test]
fn the_least_recently_used_goes_first_and_a_look_without_a_use_does_not_count() {
    let mut cache = Cache::new(3);
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        store(&mut cache, key, value);
    }
    cache.lookup(&"a");
    cache.get_mut(&"b");
    store(&mut cache, "d", 4);
    assert_eq!(keys(&mut cache), ["a", "c", "d"]);
    assert!(cache.evict());
    assert_eq!(keys(&mut cache), ["a", "d"]);
    assert_eq!(cache.get_mut(&"a"), Some(&mut 1));
}

#[test]
fn those_that_are_waited_for_stay_and_without_another_place_there_is_an_error() {
    let mut cache = Cache::new(2);
    let _ada = cache.start("ada").unwrap();
    let _bob = cache.start("bob").unwrap();
    assert_eq!(cache.start("eve").err(), Some(AllInFlight));
    assert!(!cache.evict());
    cache.retain(|_| false);
    assert_eq!(keys(&mut cache), ["ada", "bob"]);
    cache.finish("ada");
    assert!(cache.start("eve").is_ok());
    assert_eq!(keys(&mut cache), ["bob", "eve"]);
}

#[test]
fn what_is_kept_stays_while_the_next_request_is_under_way() {
    let mut cache = Cache::new(1);
    store(&mut cache, "ada", 1);
    let _first = cache.start("ada").expect("the key has its place already");
    assert_eq!(cache.get_mut(&"ada"), Some(&mut 1));
    let _second = cache.start("ada").unwrap();
    assert_eq!(cache.finish("ada"), Some(&mut 1));
    assert_eq!(cache.finish("ada"), None, "there is no request any more");
    assert_eq!(cache.len(), 1);
}

#[test]
fn what_is_not_to_be_kept_is_dropped() {
    let mut cache = Cache::new(3);
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        store(&mut cache, key, value);
    }
    cache.retain(|value| *value != 2);
    assert_eq!(keys(&mut cache), ["a", "c"]);
}

#[test]
fn there_is_room_for_one_key_at_least() {
    let mut cache = Cache::new(0);
    assert!(cache.is_empty());
    store(&mut cache, "a", 1);
    assert_eq!(cache.len(), 1);
}
