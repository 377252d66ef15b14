//! Random events, against the bounds that hold whatever happens.

use proptest::prelude::*;

use super::*;
use crate::IssuedToken;

const DEFAULT_CAPACITY: usize = 5;
const MAX_BYTES: usize = 100;

#[derive(Clone, Debug)]
enum Event {
    Find(u8),
    /// The nth request under way brings a token of so many bytes.
    Token(usize, usize),
    /// The nth request under way fails, with a message of about so many bytes.
    Failure(usize, usize),
    Refuse(u8),
    Forgive,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0_u8..9).prop_map(Event::Find),
        4 => (0_usize..5, 1_usize..150).prop_map(|(nth, bytes)| Event::Token(nth, bytes)),
        2 => (0_usize..5, 1_usize..150).prop_map(|(nth, bytes)| Event::Failure(nth, bytes)),
        2 => (0_u8..9).prop_map(Event::Refuse),
        1 => Just(Event::Forgive),
        2 => (0_u64..100).prop_map(Event::Wait),
    ]
}

impl UserTokenCache {
    /// The bytes kept, counted one by one.
    fn bytes(&mut self) -> usize {
        let entry_bytes = |entry: &mut UserEntry| {
            let token = entry.token.as_ref().map_or(0, |cached| bytes(&cached.token));
            let failed = entry.failed.as_ref();
            token + failed.map_or(0, |failed| failed.error.to_string().len())
        };
        self.users.iter_mut().map(|(_, entry)| entry_bytes(entry)).sum()
    }
}

async fn check(events: Vec<Event>) {
    let clock = Clock::starting_at("2030-01-01T00:00:00Z".parse().unwrap());
    let mut cache = UserTokenCache::new(DEFAULT_CAPACITY, MAX_BYTES, Policy::default(), clock.clone());
    let mut flights = Vec::new();
    for event in events {
        match event {
            Event::Find(name) => {
                if let CacheLookup::Miss(request_id, started) = cache.find([name; 32]) {
                    flights.push(([name; 32], request_id, started));
                }
            }
            Event::Token(nth, _) | Event::Failure(nth, _) if nth >= flights.len() => {}
            Event::Token(nth, bytes) => {
                let (user, request_id, _started) = flights.swap_remove(nth);
                let issued = IssuedToken {
                    expires_in: Some(60),
                    ..IssuedToken::bearer("t".repeat(bytes))
                };
                let token = Token::issue(issued, clock.now(), clock.now()).map(Arc::new);
                cache
                    .finish_request(user, request_id, token)
                    .expect("who asked gets it, kept or not");
            }
            Event::Failure(nth, bytes) => {
                let (user, request_id, _started) = flights.swap_remove(nth);
                let problem = "p".repeat(bytes);
                let _ = cache.finish_request(user, request_id, Err(Error::NoAssertion { problem }));
            }
            Event::Refuse(name) => {
                let id = cache
                    .users
                    .get_mut(&[name; 32])
                    .and_then(|entry| entry.token.as_ref())
                    .map(|cached| cached.token.id.clone());
                cache.reject([name; 32], &id.unwrap_or_default());
            }
            Event::Forgive => cache.reset_failures(),
            Event::Wait(seconds) => tokio::time::advance(Duration::from_secs(seconds)).await,
        }
        assert_eq!(cache.budget.total(), cache.bytes());
        assert!(cache.bytes() <= MAX_BYTES && cache.users.len() <= DEFAULT_CAPACITY);
        assert!(
            flights
                .iter()
                .all(|(user, ..)| cache.users.get_mut(user).is_some()),
            "who is waited for stays"
        );
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_more_is_kept_than_may_be(events in prop::collection::vec(event(), 1..100)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(events));
    }
}
