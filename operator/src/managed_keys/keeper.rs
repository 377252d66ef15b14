//! The keeper: the replica that leads makes and rotates keys in the Secret. What it writes counts when the watch shows
//! it, in this replica as in the others.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{ObjectMeta, PostParams};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::ResourceRef;
use mcp_auth_credentials::conditions::seconds;
use mcp_auth_resilience::exponential;
use thiserror::Error;
use tokio::task::{spawn_blocking, yield_now};
use tracing::{info, warn};

use super::key_set::{self, KeySets, Plan, Wanted};
use super::{Config, ManagedKeys, stored};
use crate::api_server::with_deadline;
use crate::resources::Resources;

/// Another replica that does not know yet that it has lost the lead may write too.
const MAX_ATTEMPTS: u32 = 5;
/// First and longest wait after the Secret could not be written.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Resources that are looked at in one go for whether they are to get a key.
const MAX_ASKED_AT_ONCE: usize = 16;
/// How often it is looked whether something is due although nothing happened.
const RESYNC: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Error)]
enum KeeperError {
    #[error("the operator may not {verb} the Secret that it keeps keys in: its Role lacks the right")]
    Forbidden { verb: &'static str },
    #[error("the Secret that the operator keeps keys in cannot be {done}: {error}")]
    ApiServer {
        done: &'static str,
        #[source]
        error: kube::Error,
    },
    #[error("other replicas kept changing the Secret that the operator keeps keys in")]
    Contended,
}

impl KeeperError {
    fn new(verb: &'static str, done: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden { verb },
            error => Self::ApiServer { done, error },
        }
    }
}

impl ManagedKeys {
    /// Makes and rotates keys for as long as it is polled. Only a resource that `is_taken_up`, which is asked for anew for each pass, gets a first one, so that no
    /// namespace has more of them than it may have resources.
    pub async fn keep<P: FnMut(&McpServerAuth) -> bool>(
        &self,
        resources: &Resources,
        is_taken_up: impl Fn() -> P,
    ) -> Infallible {
        let Some(config) = &self.0.config else {
            return std::future::pending().await;
        };
        let mut failures = 0;
        let mut last_pass = Timestamp::MIN;
        loop {
            let now = seconds(self.now());
            let wanted = self.wanted(resources, is_taken_up()).await;
            let is_known = |namespace: &str| resources.in_namespace(namespace).is_some();
            let wait_until = match self.pass(config, &wanted, is_known, now).await {
                Ok(plan) => {
                    failures = 0;
                    self.refuse(plan.refused);
                    plan.next_change.map_or(now + RESYNC, |at| at.min(now + RESYNC))
                }
                Err(error) => {
                    warn!(%error, secret = config.secret, "the clients' keys could not be kept; trying again");
                    self.fail(error.to_string(), wanted.keys().cloned());
                    let wait = exponential(BACKOFF.0, failures, BACKOFF.1);
                    failures = failures.saturating_add(1);
                    now + wait
                }
            };
            self.announce_usable(last_pass, now);
            last_pass = now;
            tokio::select! {
                () = self.0.wanted.notified(), if failures == 0 => {}
                () = self.0.clock.sleep_until(wait_until) => {}
            }
        }
    }

    /// Writes what is due, and returns what it went by.
    async fn pass(
        &self,
        config: &Config,
        wanted: &BTreeMap<ResourceRef, Wanted>,
        is_known: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<Plan, KeeperError> {
        // What the watch has shown decides whether the Secret has to be asked for at all.
        if !self.0.is_spoilt.load(Ordering::Relaxed) {
            // Where the watch has not shown the Secret, a key that is there already must not be taken for missing.
            let Some(known) = self.0.keys.read().clone() else {
                return Ok(Plan::default());
            };
            let plan = plan(known, wanted, &is_known, now).await;
            if plan.changed.is_none() {
                return Ok(plan);
            }
        }
        for _ in 0..MAX_ATTEMPTS {
            let existing = with_deadline(self.0.api.get_opt(&config.secret)).await;
            let existing = existing.map_err(|error| KeeperError::new("get", "read", error))?;
            let (stored, is_spoilt) = match existing.as_ref().map(stored::read) {
                Some(Ok(stored)) => (stored, false),
                None => (KeySets::new(), false),
                // Spoilt: what this replica remembers takes its place.
                Some(Err(error)) => {
                    warn!(%error, secret = config.secret, "the clients' keys are written anew");
                    (self.0.keys.read().clone().unwrap_or_default(), true)
                }
            };
            let plan = plan(stored.clone(), wanted, &is_known, now).await;
            let keys = match &plan.changed {
                Some(keys) => keys,
                None if is_spoilt => &stored,
                // The watch is a moment behind.
                None => return Ok(plan),
            };
            match self.write(config, existing, keys).await {
                Ok(()) => {
                    tell(&stored, keys);
                    return Ok(plan);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(KeeperError::new("write", "written", error)),
            }
        }
        Err(KeeperError::Contended)
    }

    async fn write(&self, config: &Config, existing: Option<Secret>, keys: &KeySets) -> kube::Result<()> {
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(config.secret.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(stored::data(keys)),
            ..Secret::default()
        };
        match existing {
            None => with_deadline(self.0.api.create(&PostParams::default(), &secret)).await,
            Some(existing) => {
                // The resource version makes the API server refuse this when another replica was faster.
                secret.metadata.resource_version = existing.resource_version();
                secret.metadata.labels = existing.metadata.labels;
                secret.metadata.annotations = existing.metadata.annotations;
                secret.type_ = existing.type_;
                with_deadline(
                    self.0
                        .api
                        .replace(&config.secret, &PostParams::default(), &secret),
                )
                .await
            }
        }
        .map(drop)
    }

    /// Of the resources that have a key and of those that are to get one. Whether one is to is decided by all of its namespace: the other
    /// tasks of the replica that leads, which are polled with this one, have their turns in between.
    pub(super) async fn wanted(
        &self,
        resources: &Resources,
        mut is_taken_up: impl FnMut(&McpServerAuth) -> bool,
    ) -> BTreeMap<ResourceRef, Wanted> {
        let mut all = BTreeMap::new();
        let mut asked = 0;
        for resource in resources.store().state() {
            let resource_ref = ResourceRef::from(&*resource);
            let Some(wanted) = key_set::wanted(&resource) else {
                continue;
            };
            if !self.has_key(&resource_ref) {
                asked += 1;
                if asked % MAX_ASKED_AT_ONCE == 0 {
                    yield_now().await;
                }
                if !is_taken_up(&resource) {
                    continue;
                }
            }
            all.insert(resource_ref, wanted);
        }
        all
    }

    fn has_key(&self, resource_ref: &ResourceRef) -> bool {
        let keys = self.0.keys.read();
        keys.as_ref().is_some_and(|keys| keys.contains_key(resource_ref))
    }

    /// Keys that were made before their time, and whose time has come since the last pass.
    fn announce_usable(&self, last_pass: Timestamp, now: Timestamp) {
        let keys = self.0.keys.read();
        for (resource_ref, keys) in keys.iter().flatten() {
            if last_pass < keys.current.since && keys.current.since <= now {
                self.announce(resource_ref);
            }
        }
    }
}

/// [`key_set::plan`], which may make RSA keys, on a thread that may be kept busy.
async fn plan(
    stored: KeySets,
    wanted: &BTreeMap<ResourceRef, Wanted>,
    is_known: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Plan {
    let namespaces = stored.keys().map(|resource_ref| resource_ref.namespace.clone());
    let known: BTreeSet<String> = namespaces.filter(|namespace| is_known(namespace)).collect();
    let wanted = wanted.clone();
    spawn_blocking(move || key_set::plan(&stored, &wanted, |namespace| known.contains(namespace), now))
        .await
        .expect("a plan does not panic, and nobody aborts it")
}

fn tell(before: &KeySets, after: &KeySets) {
    for (ResourceRef { namespace, name }, keys) in after {
        let resource_ref = ResourceRef {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let known = before.get(&resource_ref);
        if known.is_none_or(|known| known.current.id() != keys.current.id()) {
            let (key_id, next_key_id) = (keys.current.id(), keys.next.id());
            info!(
                namespace,
                name, key_id, next_key_id, "another key signs for this client"
            );
        }
    }
}
