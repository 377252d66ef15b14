//! Cookie arrivals: how often each allow-listed cookie comes with users' requests. A cookie that never does is misspelt,
//! or the front end keeps it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;

use crate::proxy::metrics::Metrics;
use crate::proxy::user_context::{Context, names_user};

/// So many requests without a cookie are enough to say that it does not come.
const ENOUGH_REQUESTS: u64 = 100;

pub struct CookieArrivals {
    /// Requests that could have carried cookies.
    requests: AtomicU64,
    cookies: ArcSwap<HashMap<Box<[u8]>, Arrivals>>,
}

#[derive(Clone)]
struct Arrivals {
    count: Arc<AtomicU64>,
    /// The same by the name's fingerprint, for the metrics.
    counter: Counter,
    /// [`CookieArrivals::requests`] when the name was first allowed.
    since: u64,
}

impl Default for CookieArrivals {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            cookies: ArcSwap::default(),
        }
    }
}

impl CookieArrivals {
    /// Counts these names from now on, and goes on with those that it counts already.
    pub fn set<'a>(&self, names: impl Iterator<Item = &'a [u8]>, metrics: &Metrics) {
        let before = self.cookies.load();
        let since = self.requests.load(Ordering::Relaxed);
        let arrivals = |name: &[u8]| {
            before.get(name).cloned().unwrap_or_else(|| Arrivals {
                count: Arc::default(),
                counter: metrics.cookie_arrivals(name),
                since,
            })
        };
        let cookies = names.map(|name| (Box::from(name), arrivals(name))).collect();
        self.cookies.store(Arc::new(cookies));
    }

    /// A request of a user, with what of it is allowed.
    pub fn record(&self, context: Option<&Context>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(context) = context else {
            return;
        };
        let cookies = self.cookies.load();
        for (name, _) in context.cookies().filter(|(_, value)| names_user(value)) {
            if let Some(arrivals) = cookies.get(name) {
                arrivals.count.fetch_add(1, Ordering::Relaxed);
                arrivals.counter.inc();
            }
        }
    }

    /// How many requests came without this cookie, if there were enough of them and it never came.
    pub fn missing_in(&self, name: &[u8]) -> Option<u64> {
        let cookies = self.cookies.load();
        let arrivals = cookies.get(name)?;
        let requests = self.requests.load(Ordering::Relaxed) - arrivals.since;
        (arrivals.count.load(Ordering::Relaxed) == 0 && requests >= ENOUGH_REQUESTS).then_some(requests)
    }
}
