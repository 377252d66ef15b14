//! A watch of one object by its name, for rights that name it.

use std::fmt::Debug;

use futures::StreamExt;
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use mcp_auth_credentials::references::Lookup;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::values::Values;
use super::{Object, References};
use crate::api_server::is_forbidden;

impl References {
    pub(super) async fn watch_by_name<K>(self, object: Object)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Values,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (_, namespace, name) = &object;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut exists = false;
        while let Some(event) = events.next().await {
            let finding = match event {
                Ok(watcher::Event::Init) => {
                    exists = false;
                    continue;
                }
                Ok(watcher::Event::InitApply(found) | watcher::Event::Apply(found)) => {
                    exists = true;
                    self.lookup(found)
                }
                Ok(watcher::Event::InitDone) if exists => continue,
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => Lookup::NotFound.into(),
                Err(error) if is_forbidden(&error) => Lookup::Forbidden {
                    grant: self.grant(&object),
                }
                .into(),
                Err(error) => {
                    warn!(%namespace, %name, kind = object.0.as_str(), %error, "watch failed; trying again");
                    continue;
                }
            };
            self.record(&object, finding, None);
        }
    }
}
