//! A watch of metadata, which tells which of the objects that are referred to have changed. Nothing is kept of the
//! others.

use std::fmt::Debug;

use futures::StreamExt;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use mcp_auth_credentials::references::Lookup;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::{Object, References, Scope};
use crate::api_server::is_forbidden;
use crate::liveness::BEAT_INTERVAL;

impl References {
    pub(super) async fn watch_metadata<K>(self, scope: Scope)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (kind, namespace) = (scope.0.as_str(), scope.1.as_deref());
        let api: Api<PartialObjectMeta<K>> = match namespace {
            None => Api::all(self.client.clone()),
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
        };
        let mut events = watcher(api, Config::default()).default_backoff().boxed();
        let mut was_listed = false;
        let place = namespace.unwrap_or("all namespaces");
        let pulse = self
            .liveness
            .pulse(format!("the watch of every {kind} in {place}"));
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = ticks.tick() => {
                    pulse.beat();
                    continue;
                }
            };
            let Some(event) = event else {
                // It never ends; were it to, changes would be missed from then on, and a restart helps.
                std::future::pending::<()>().await;
                return;
            };
            match event {
                Ok(Event::Init) => self.begin_list(&scope),
                Ok(Event::InitApply(found) | Event::Apply(found)) => self.note(&scope, &found),
                Ok(Event::Delete(gone)) => self.note_deleted(&scope, &gone),
                Ok(Event::InitDone) => {
                    was_listed = true;
                    self.end_list(&scope);
                }
                Err(error) if is_forbidden(&error) && !was_listed => {
                    info!(
                        kind,
                        namespace, "metadata may not be watched: each object is watched by its name"
                    );
                    self.watch_scope_by_name(&scope);
                    return;
                }
                Err(error) => warn!(kind, namespace, %error, "watching metadata failed; trying again"),
            }
        }
    }

    fn begin_list(&self, scope: &Scope) {
        let mut watched = self.watched.lock();
        for (object, known) in &mut watched.objects {
            if self.scope(object) == *scope {
                known.is_listed = false;
            }
        }
    }

    fn note<K>(&self, scope: &Scope, found: &PartialObjectMeta<K>) {
        let mut watched = self.watched.lock();
        if let Some(known) = watched.objects.get_mut(&object(scope, found)) {
            known.is_listed = true;
            let version = &found.metadata.resource_version;
            if matches!(known.lookup, Lookup::Unknown) {
                // It is being read, and compared then.
                known.noted_version.clone_from(version);
            } else if known.version != *version {
                known.outdated.notify_one();
            }
        }
    }

    fn note_deleted<K>(&self, scope: &Scope, gone: &PartialObjectMeta<K>) {
        let watched = self.watched.lock();
        if let Some(known) = watched.objects.get(&object(scope, gone)) {
            known.outdated.notify_one();
        }
    }

    /// What was deleted while the watch was down has no event of its own.
    fn end_list(&self, scope: &Scope) {
        let watched = self.watched.lock();
        for (object, known) in &watched.objects {
            let is_gone = !known.is_listed && matches!(known.lookup, Lookup::Found(_));
            if self.scope(object) == *scope && is_gone {
                known.outdated.notify_one();
            }
        }
    }

    fn watch_scope_by_name(&self, scope: &Scope) {
        let mut watched = self.watched.lock();
        if let Some(watched_scope) = watched.scopes.get_mut(scope) {
            watched_scope.is_forbidden = true;
        }
        for (object, known) in &mut watched.objects {
            if self.scope(object) == *scope {
                known.task = self.start_by_name(object.clone());
            }
        }
    }
}

fn object<K>((kind, _): &Scope, found: &PartialObjectMeta<K>) -> Object {
    let metadata = &found.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    (*kind, namespace, metadata.name.clone().unwrap_or_default())
}
