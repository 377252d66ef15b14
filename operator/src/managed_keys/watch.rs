//! The watch of the Secret that holds the keys: every replica takes over what it holds, whoever wrote it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use tracing::warn;

use super::key_set::KeySets;
use super::{ManagedKeys, stored};
use crate::api_server::is_forbidden;

impl ManagedKeys {
    /// Watches for as long as it is polled; where the operator makes no keys there is nothing to watch.
    pub async fn watch(self) -> Infallible {
        let Some(config) = &self.0.config else {
            return std::future::pending().await;
        };
        let by_name = watcher::Config::default().fields(&format!("metadata.name={}", config.secret));
        let mut events = watcher(self.0.api.clone(), by_name).default_backoff().boxed();
        let mut exists = false;
        loop {
            match events.next().await {
                Some(Ok(watcher::Event::Init)) => exists = false,
                Some(Ok(watcher::Event::InitApply(secret) | watcher::Event::Apply(secret))) => {
                    exists = true;
                    self.take_over(&secret, &config.secret);
                }
                Some(Ok(watcher::Event::InitDone)) if exists => {}
                // It has not been made yet, or was deleted so that new keys are made.
                Some(Ok(watcher::Event::InitDone | watcher::Event::Delete(_))) => self.gone(),
                Some(Err(error)) => {
                    warn!(%error, secret = config.secret, "watching the clients' keys failed; trying again");
                    if is_forbidden(&error) {
                        self.fail(
                            "the operator may not read the Secret that it keeps keys in".into(),
                            [],
                        );
                    }
                }
                // A watch begins again when it ends.
                None => return std::future::pending().await,
            }
        }
    }

    pub(super) fn take_over(&self, secret: &Secret, name: &str) {
        match stored::read(secret) {
            Ok(keys) => self.replace(keys),
            Err(error) => {
                warn!(%error, secret = name, "the clients' keys cannot be read");
                self.0.is_spoilt.store(true, Ordering::Relaxed);
                self.fail(
                    format!("the Secret that the operator keeps keys in cannot be read: {error}"),
                    [],
                );
            }
        }
        self.0.wanted.notify_one();
    }

    fn gone(&self) {
        self.replace(KeySets::new());
        self.0.wanted.notify_one();
    }
}
