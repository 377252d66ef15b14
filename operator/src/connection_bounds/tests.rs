use futures::FutureExt;

use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn bounds() -> ConnectionBounds {
    ConnectionBounds::new(ConnectionLimits {
        total: 6,
        without_request: 4,
        unauthenticated_by_address: 2,
        by_pod: 2,
        not_entitled: 2,
    })
}

#[test]
fn a_crowd_of_addresses_leaves_places_to_those_that_have_none() {
    let limits = ConnectionLimits {
        total: 20_000,
        without_request: 4_000,
        unauthenticated_by_address: 200,
        by_pod: 16,
        not_entitled: 2_000,
    };
    for with_requests in [false, true] {
        let bounds = ConnectionBounds::new(limits);
        let mut crowd = Vec::new();
        for last in 1..=200 {
            for _ in 0..200 {
                let place = bounds.enter(address(last)).expect("each is let in");
                if with_requests {
                    place.has_request();
                }
                crowd.push(place);
            }
        }
        let newcomers: Vec<_> = (201..=240)
            .map(|last| bounds.enter(address(last)).expect("there is room for others"))
            .collect();
        // A newcomer takes the place of the address that has most, and never that of one with a single connection.
        let more: Vec<_> = (1..=200).filter_map(|last| bounds.enter(address(last))).collect();
        assert!(newcomers.iter().all(|newcomer| !is_closed(newcomer)));
        let all = crowd.iter().chain(&newcomers).chain(&more);
        let open = all.filter(|place| !is_closed(place)).count();
        let allowed = if with_requests { 20_000 } else { 4_000 };
        assert_eq!(open, allowed, "within the bounds");
        drop((crowd, newcomers, more));
        assert_nothing_is_left(&bounds);
    }
}

#[test]
fn where_each_address_has_one_the_oldest_gives_way() {
    let bounds = bounds();
    let places: Vec<_> = (0..100)
        .map(|last| bounds.enter(address(last)).unwrap())
        .collect();
    let open: Vec<_> = places.iter().filter(|place| !is_closed(place)).collect();
    assert_eq!(
        open.iter().map(|place| place.address()).collect::<Vec<_>>(),
        [96, 97, 98, 99].map(address)
    );
    open[0].authenticated("llm", "one").unwrap();
    places[0].authenticated("llm", "one").unwrap();
    drop(places);
    assert_nothing_is_left(&bounds);
}

#[test]
fn pods_that_are_entitled_to_something_give_way_where_their_namespace_has_more_than_its_share() {
    let bounds = bounds();
    let of_pods: Vec<_> = (0..6)
        .map(|last| {
            let place = bounds.enter(address(last)).unwrap();
            let namespace = if last < 4 { "crowd" } else { "other" };
            place.authenticated(namespace, &last.to_string()).unwrap();
            place.entitled();
            place.entitled();
            place
        })
        .collect();
    // Of six places a namespace keeps one, and what has most gives way first.
    let newcomers: Vec<_> = (7..11)
        .map(|last| {
            let place = bounds.enter(address(last)).expect("the crowd gives way");
            place.authenticated(&last.to_string(), &last.to_string()).unwrap();
            place.entitled();
            place
        })
        .collect();
    let closed: Vec<_> = of_pods.iter().map(is_closed).collect();
    assert_eq!(
        closed.iter().filter(|is_closed| **is_closed).count(),
        4,
        "{closed:?}"
    );
    assert!(!closed[3] && !closed[5], "one of each stays: {closed:?}");
    assert!(!newcomers.iter().any(is_closed));
    assert!(bounds.enter(address(11)).is_none(), "each has its share");
}

#[test]
fn pods_that_no_resource_selects_leave_places_to_those_that_come() {
    let bounds = ConnectionBounds::new(ConnectionLimits {
        total: 2_000,
        without_request: 1_000,
        unauthenticated_by_address: 200,
        by_pod: 16,
        not_entitled: 200,
    });
    let of_pod = |namespace: &str, uid: String, is_entitled| {
        let place = bounds.enter(address(1)).expect("there is room for others");
        place.authenticated(namespace, &uid).unwrap();
        if is_entitled {
            place.entitled();
        }
        place
    };
    // As many as there may be, by tokens that these pods have asked for themselves.
    let crowd: Vec<_> = (0..2_000)
        .map(|number| of_pod("strangers", format!("s{}", number / 16), false))
        .collect();
    // Of a namespace without resources yet.
    let waiting: Vec<_> = (0..100)
        .map(|number| of_pod("soon", format!("w{number}"), false))
        .collect();
    let sidecars: Vec<_> = (0..1_800)
        .map(|number| of_pod("llm", format!("p{number}"), true))
        .collect();
    assert!(!waiting.iter().chain(&sidecars).any(is_closed));
    assert_eq!(crowd.iter().filter(|place| !is_closed(place)).count(), 100);
    // What is without a token gives way before those few.
    let unknown: Vec<_> = (2..50).map(|last| bounds.enter(address(last)).unwrap()).collect();
    assert!(!waiting.iter().chain(&sidecars).any(is_closed));
    assert!(!is_closed(unknown.last().unwrap()));
    crowd.iter().for_each(Place::entitled);
    assert_eq!(
        crowd.iter().filter(|place| is_closed(place)).count(),
        1_901,
        "what gave way stays so"
    );
    drop((crowd, waiting, sidecars, unknown));
    assert_nothing_is_left(&bounds);
}

#[test]
fn a_preferred_address_has_a_place_where_others_have_them_all() {
    let node = IpAddr::from([10, 0, 1, 1]);
    let bounds = bounds().preferring(&[node]);
    let others: Vec<Place> = (0..100).filter_map(|last| bounds.enter(address(last))).collect();
    // As a listener for both families has it.
    let of_node = [(); 6].map(|()| bounds.enter("::ffff:10.0.1.1".parse().unwrap()).unwrap());
    assert_eq!(others.iter().filter(|other| !is_closed(other)).count(), 4);
    drop(others);
    assert!(bounds.enter(address(1)).is_none(), "they count with all");
    assert!(!of_node.iter().any(is_closed));
    drop(of_node);
    assert_nothing_is_left(&bounds);
}

#[test]
fn one_address_cannot_take_the_places_of_the_others() {
    let bounds = bounds();
    let of_one = [(); 2].map(|()| bounds.enter(address(1)).unwrap());
    assert!(bounds.enter(address(1)).is_none());
    let others = [2, 3].map(|last| bounds.enter(address(last)).unwrap());
    for place in of_one.iter().chain(&others) {
        place.has_request();
        place.has_request();
    }
    assert!(
        bounds.enter(address(1)).is_none(),
        "a request that anybody can send makes no room for more"
    );
    drop((of_one, others));
    assert_nothing_is_left(&bounds);
}

#[test]
fn pods_behind_one_address_count_each_for_itself_once_they_have_shown_their_tokens() {
    let bounds = bounds();
    let of_one = [(); 2].map(|()| {
        let place = bounds.enter(address(1)).unwrap();
        place.authenticated("llm", "one").unwrap();
        place.authenticated("llm", "one").unwrap();
        place
    });
    let another = bounds.enter(address(1)).unwrap();
    assert_eq!(another.authenticated("llm", "one"), Err(TooManyOfPodError(2)));
    another.authenticated("llm", "two").unwrap();
    let more = bounds.enter(address(1)).unwrap();
    drop(of_one);
    more.authenticated("llm", "one").unwrap();
    drop((another, more));
    assert_nothing_is_left(&bounds);
}

fn assert_nothing_is_left(bounds: &ConnectionBounds) {
    let counts = bounds.counts.lock();
    assert_eq!((counts.total(), counts.without_request.count), (0, 0));
    for connections in [&counts.unauthenticated, &counts.without_request] {
        assert!(connections.by_key.is_empty() && connections.order.is_empty());
    }
    assert!(counts.not_entitled.by_key.is_empty() && counts.not_entitled.order.is_empty());
    assert!(counts.by_pod.is_empty());
}

/// Told once.
fn is_closed(place: &Place) -> bool {
    let is_told = place.closed().now_or_never().is_some();
    if is_told {
        // Kept for the next question.
        place.close.notify_one();
    }
    let counts = place.counts.lock();
    let is_known = match &*place.state.lock() {
        PlaceState::Preferred => true,
        PlaceState::Unauthenticated => is_among(&counts.unauthenticated, &place.address, place.number),
        PlaceState::OfPod {
            namespace,
            is_entitled,
            ..
        } => {
            let of_namespace = match is_entitled {
                true => &counts.entitled,
                false => &counts.not_entitled,
            };
            is_among(of_namespace, namespace, place.number)
        }
    };
    assert_eq!(is_told, !is_known);
    is_told
}

fn is_among<K: Eq + Hash>(connections: &Connections<K>, key: &K, number: u64) -> bool {
    connections
        .by_key
        .get(key)
        .is_some_and(|of_key| of_key.contains_key(&number))
}
