//! Reads one object, and again whenever it is outdated.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use mcp_auth_credentials::references::Lookup;
use mcp_auth_resilience::exponential;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::warn;

use super::values::Values;
use super::{Object, References};
use crate::api_server::with_deadline;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

impl References {
    /// What changes while it is read is read after that: no answer is older than the last change.
    pub(super) async fn keep_read<K>(self, object: Object, outdated: Arc<Notify>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Values,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (_, namespace, name) = &object;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let mut failures = 0;
        loop {
            let answer = {
                // Never closed.
                let _turn = self.reads.acquire().await;
                // On the heap, since it is large and seldom: there is one of these tasks for each object.
                with_deadline(api.get_opt(name)).boxed().await
            };
            match answer {
                Ok(found) => {
                    let version = found.as_ref().and_then(ResourceExt::resource_version);
                    let finding = match found {
                        Some(found) => self.lookup(found),
                        None => Lookup::NotFound.into(),
                    };
                    self.record(&object, finding, version);
                    failures = 0;
                    outdated.notified().await;
                }
                // Rights that name it may be for its watch alone.
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    self.watch_object_by_name(&object);
                    return;
                }
                Err(error) => {
                    warn!(%namespace, %name, kind = object.0.as_str(), %error, "reading failed; trying again");
                    tokio::time::sleep(exponential(FIRST_RETRY, failures, MAX_RETRY)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }
}
