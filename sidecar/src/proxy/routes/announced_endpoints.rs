//! Announced endpoints: the paths at which a server with legacy SSE takes messages, as its event streams say while they
//! are open. Requests to any other path of the origin are not served: the token is for MCP.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Those of one server. A path counts as often as it was announced.
#[derive(Default)]
pub struct AnnouncedEndpoints {
    paths: Mutex<HashMap<Box<str>, usize>>,
}

/// Keeps an endpoint announced; held by the stream that announced it.
pub struct Announcement {
    endpoints: Arc<AnnouncedEndpoints>,
    path: Box<str>,
}

impl AnnouncedEndpoints {
    /// `path` is that at the server, without a query.
    pub fn announce(self: &Arc<Self>, path: &str) -> Announcement {
        *self.paths.lock().entry(path.into()).or_default() += 1;
        Announcement {
            endpoints: self.clone(),
            path: path.into(),
        }
    }

    /// Whether messages go to this path. One more slash at its end does not matter: many servers redirect there.
    pub fn is_announced(&self, path: &str) -> bool {
        let paths = self.paths.lock();
        paths.contains_key(path)
            || path
                .strip_suffix('/')
                .is_some_and(|path| paths.contains_key(path))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut paths = self.endpoints.paths.lock();
        if let Some(count) = paths.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                paths.remove(&self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_announced_as_long_as_any_stream_that_announced_it_is_open() {
        let endpoints = Arc::<AnnouncedEndpoints>::default();
        assert!(!endpoints.is_announced("/messages"));
        let first = endpoints.announce("/messages");
        let second = endpoints.announce("/messages");
        drop(first);
        assert!(endpoints.is_announced("/messages") && endpoints.is_announced("/messages/"));
        for other in ["/", "/message", "/messages/x", "/messages//", ""] {
            assert!(!endpoints.is_announced(other), "{other}");
        }
        drop(second);
        assert!(!endpoints.is_announced("/messages"));
    }
}
