//! Single flight: a cache with at most one request under way for each key, whose outcome all share that ask
//! meanwhile. What is kept of outcomes, and for how long it is good, is the caller's: this bounds for how many
//! keys it is kept (the least recently used goes first), and keeps those with a request under way, because
//! somebody waits for them.
//!
//! No lock and no request is in here: the caller puts the cache behind its own lock, together with whatever it
//! decides by, and spawns the future that [`StartedRequest::run`] makes.

use std::collections::HashMap;
use std::hash::Hash;

use hashlink::LinkedHashMap;
use thiserror::Error;
use tokio::sync::watch;

/// Keeps a `V` for each of a bounded number of keys; requests bring an `R`.
pub struct SingleFlightCache<K, V, R> {
    capacity: usize,
    /// Keys without a request under way, the least recently used first.
    idle: LinkedHashMap<K, V>,
    in_flight: HashMap<K, (V, InFlight<R>)>,
}

/// What there is for a key.
pub struct Lookup<'a, V, R> {
    pub value: &'a mut V,
    /// The request under way.
    pub in_flight: Option<&'a InFlight<R>>,
}

/// A request under way, for one that waits for it. Giving up the wait does not give up the request.
pub struct InFlight<R>(watch::Receiver<Option<R>>);

/// A request that was entered into the cache and has to be made now.
pub struct StartedRequest<R>(watch::Sender<Option<R>>);

/// As many keys as the cache may have are waited for.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("too many requests are under way at once")]
pub struct AllInFlight;

impl<K: Copy + Eq + Hash, V: Default, R> SingleFlightCache<K, V, R> {
    /// For this many keys, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            idle: LinkedHashMap::new(),
            in_flight: HashMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.idle.len() + self.in_flight.len()
    }

    /// Keys with a request under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What there is for the key, which is the most recently used one from now on.
    pub fn lookup(&mut self, key: &K) -> Option<Lookup<'_, V, R>> {
        match self.in_flight.get_mut(key) {
            Some((value, in_flight)) => Some(Lookup {
                value,
                in_flight: Some(in_flight),
            }),
            None => self.idle.to_back(key).map(|value| Lookup {
                value,
                in_flight: None,
            }),
        }
    }

    /// What is kept for the key. Does not count as a use.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.in_flight.get_mut(key) {
            Some((value, _)) => Some(value),
            None => self.idle.get_mut(key),
        }
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let in_flight = self.in_flight.iter_mut().map(|(key, (value, _))| (key, value));
        self.idle.iter_mut().chain(in_flight)
    }

    /// Enters a request for the key, and makes room for it if need be. Every started request is to be brought
    /// to its end with [`StartedRequest::run`] and [`SingleFlightCache::finish`]. One that is under way already
    /// is replaced, so look first.
    pub fn start(&mut self, key: K) -> Result<StartedRequest<R>, AllInFlight> {
        let idle = self.idle.remove(&key);
        let value = idle.or_else(|| self.in_flight.remove(&key).map(|(value, _)| value));
        if value.is_none() && self.len() >= self.capacity && !self.evict() {
            return Err(AllInFlight);
        }
        let (sender, receiver) = watch::channel(None);
        let in_flight = InFlight(receiver);
        self.in_flight.insert(key, (value.unwrap_or_default(), in_flight));
        Ok(StartedRequest(sender))
    }

    /// The key's request came to its end: returns what is kept for it, to be changed by the outcome. `None`:
    /// there was no request.
    pub fn finish(&mut self, key: K) -> Option<&mut V> {
        let (value, _) = self.in_flight.remove(&key)?;
        Some(self.idle.entry(key).or_insert(value))
    }

    /// Drops the least recently used key. `false`: the cache is empty, or somebody waits for each of its keys.
    pub fn evict(&mut self) -> bool {
        self.idle.pop_front().is_some()
    }

    /// Drops the keys whose value is not to be kept, but for those with a request under way.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.idle.retain(|_, value| keep(value));
    }
}

impl<R: Clone> InFlight<R> {
    /// Waits for the outcome. `None`: the request ended without one.
    pub async fn outcome(mut self) -> Option<R> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<R> Clone for InFlight<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R> StartedRequest<R> {
    pub fn in_flight(&self) -> InFlight<R> {
        InFlight(self.0.subscribe())
    }

    /// The request brought to its end: `finish` hears of the outcome before those that wait do, returns
    /// what they get, and is called even where the request panics or is dropped (with `None`). The future is to
    /// be spawned, so that it outlives the call that started it.
    pub fn run<T>(
        self,
        request: impl Future<Output = T>,
        finish: impl FnOnce(Option<T>) -> R,
    ) -> impl Future<Output = ()> {
        // Made here and not when the future is first polled: it may be dropped before.
        let guard = InFlightGuard {
            finish: Some(finish),
            waiting: self.0,
            outcome: None,
        };
        async move { guard.complete(request.await) }
    }
}

/// Tells of the outcome when it is dropped, whatever ended the request.
struct InFlightGuard<T, R, F: FnOnce(Option<T>) -> R> {
    finish: Option<F>,
    waiting: watch::Sender<Option<R>>,
    outcome: Option<T>,
}

impl<T, R, F: FnOnce(Option<T>) -> R> InFlightGuard<T, R, F> {
    fn complete(mut self, outcome: T) {
        self.outcome = Some(outcome);
    }
}

impl<T, R, F: FnOnce(Option<T>) -> R> Drop for InFlightGuard<T, R, F> {
    fn drop(&mut self) {
        if let Some(finish) = self.finish.take() {
            let outcome = finish(self.outcome.take());
            self.waiting.send_replace(Some(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
