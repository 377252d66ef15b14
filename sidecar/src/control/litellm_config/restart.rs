//! Restart detection: which servers LiteLLM does not know of yet. It reads its configuration at start only,
//! so an entry that came or changed later needs a restart of LiteLLM, which the status then asks for.
//!
//! A start is known by LiteLLM's listening socket, which is a new one in each life of the process. When exactly
//! LiteLLM reads its files is not known (mostly before it listens), so it is taken to have read only what
//! stood in every overlay since it was last seen to be another process.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::entry::Address;

/// The state of LiteLLM, as one probe found it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LitellmState {
    /// No process listens on its port.
    Down,
    /// The number of its listening socket, the same one as long as the process lives.
    Listening { listener: u64 },
}

/// The managed servers that LiteLLM has read, and by which socket its process is known. Outlives a restart of
/// the sidecar in a file beside the overlay.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Loaded {
    listener: u64,
    servers: BTreeMap<String, Address>,
}

#[derive(Debug, Default)]
pub struct Restart {
    /// In the overlay now.
    current: BTreeMap<String, Address>,
    /// In every overlay since the process in `loaded` was last seen alive; absent before the first overlay.
    constant: Option<BTreeMap<String, Address>>,
    loaded: Option<Loaded>,
    /// Whether that process has not been seen to be gone.
    alive: bool,
}

impl Restart {
    /// Goes on where an earlier process of the sidecar stopped.
    pub fn resume(loaded: Option<Loaded>) -> Self {
        Self {
            alive: loaded.is_some(),
            loaded,
            ..Self::default()
        }
    }

    pub fn overlay_written(&mut self, servers: BTreeMap<String, Address>) {
        match &mut self.constant {
            Some(constant) => constant.retain(|name, address| servers.get(name) == Some(address)),
            None => self.constant = Some(servers.clone()),
        }
        self.current = servers;
    }

    /// What LiteLLM has read, if that has changed.
    pub fn observe(&mut self, state: LitellmState) -> Option<&Loaded> {
        let listener = match state {
            LitellmState::Down => {
                self.alive = false;
                return None;
            }
            LitellmState::Listening { listener } => listener,
        };
        let is_same_process = self.alive
            && self
                .loaded
                .as_ref()
                .is_some_and(|loaded| loaded.listener == listener);
        let constant = self.constant.replace(self.current.clone());
        if is_same_process {
            return None;
        }
        self.alive = true;
        self.loaded = Some(Loaded {
            listener,
            servers: constant.unwrap_or_default(),
        });
        self.loaded.as_ref()
    }

    /// Sorted names of the servers in the overlay that LiteLLM has not read as they are, and of those that it has read
    /// and that are not there any more: it offers their tools, and no call of them succeeds.
    pub fn needed_for(&self) -> Vec<String> {
        let Some(loaded) = &self.loaded else {
            return Vec::new();
        };
        let unread = self
            .current
            .iter()
            .filter(|(name, address)| loaded.servers.get(*name) != Some(address));
        let gone = loaded
            .servers
            .keys()
            .filter(|name| !self.current.contains_key(*name));
        let names: BTreeSet<&String> = unread.map(|(name, _)| name).chain(gone).collect();
        names.into_iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> BTreeMap<String, Address> {
        let address = |name: &str| Address {
            url: format!("http://127.0.0.1:1/{name}/mcp"),
            transport: "http".into(),
            settings: None,
        };
        names
            .iter()
            .map(|name| ((*name).to_owned(), address(name)))
            .collect()
    }

    fn up(first: &[&str]) -> Restart {
        let mut restart = Restart::default();
        restart.overlay_written(servers(first));
        restart.observe(LitellmState::Down);
        restart.observe(LitellmState::Listening { listener: 1 });
        restart
    }

    #[test]
    fn nothing_is_needed_before_litellm_has_started() {
        let mut restart = Restart::default();
        restart.overlay_written(servers(&["a"]));
        assert!(restart.needed_for().is_empty());
    }

    #[test]
    fn what_stood_in_the_overlay_at_the_start_is_known() {
        assert!(up(&["a", "b"]).needed_for().is_empty());
    }

    #[test]
    fn a_server_that_comes_later_needs_a_restart_until_there_was_one() {
        let mut restart = up(&["a"]);
        restart.overlay_written(servers(&["a", "b"]));
        assert_eq!(restart.needed_for(), ["b"]);
        restart.observe(LitellmState::Listening { listener: 1 });
        assert_eq!(restart.needed_for(), ["b"]);
        restart.observe(LitellmState::Listening { listener: 2 });
        assert!(
            restart.needed_for().is_empty(),
            "another socket is another process, even if nobody saw it go"
        );
    }

    #[test]
    fn a_changed_path_or_transport_needs_a_restart() {
        let mut restart = up(&["a"]);
        let mut changed = servers(&["a"]);
        changed.get_mut("a").unwrap().transport = "sse".into();
        restart.overlay_written(changed);
        assert_eq!(restart.needed_for(), ["a"]);
        restart.overlay_written(servers(&["a"]));
        assert!(
            restart.needed_for().is_empty(),
            "and none once it is as LiteLLM knows it"
        );
    }

    #[test]
    fn a_server_that_goes_needs_one_until_it_is_back() {
        let mut restart = up(&["a", "b"]);
        restart.overlay_written(servers(&["a"]));
        assert_eq!(restart.needed_for(), ["b"]);
        restart.overlay_written(servers(&["a", "b"]));
        assert!(restart.needed_for().is_empty());
    }

    #[test]
    fn what_changes_while_litellm_starts_is_not_taken_for_read() {
        let mut restart = up(&["a"]);
        restart.observe(LitellmState::Down);
        restart.overlay_written(servers(&["a", "b"]));
        restart.observe(LitellmState::Listening { listener: 2 });
        assert_eq!(restart.needed_for(), ["b"]);
    }

    #[test]
    fn the_same_socket_number_after_a_gap_is_another_process() {
        let mut restart = up(&["a"]);
        restart.overlay_written(servers(&["a", "b"]));
        restart.observe(LitellmState::Listening { listener: 1 });
        restart.observe(LitellmState::Down);
        assert!(restart.observe(LitellmState::Listening { listener: 1 }).is_some());
        assert!(restart.needed_for().is_empty());
    }

    #[test]
    fn a_restart_of_the_sidecar_forgets_nothing() {
        let mut earlier = Restart::default();
        earlier.overlay_written(servers(&["a"]));
        let loaded = earlier
            .observe(LitellmState::Listening { listener: 7 })
            .cloned()
            .unwrap();
        let kept: Loaded = serde_json::from_str(&serde_json::to_string(&loaded).unwrap()).unwrap();

        let mut restart = Restart::resume(Some(kept));
        restart.overlay_written(servers(&["a", "b"]));
        assert_eq!(restart.observe(LitellmState::Listening { listener: 7 }), None);
        assert_eq!(restart.needed_for(), ["b"]);
    }
}
