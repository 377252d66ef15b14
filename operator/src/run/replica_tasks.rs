//! What a replica does by whether it leads: it mints and writes statuses, or it follows the one that does.

use std::sync::Arc;

use anyhow::Context as _;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::ResourceRef;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::liveness::{BEAT_INTERVAL, Liveness};
use crate::managed_keys::ManagedKeys;
use crate::metrics::Metrics;
use crate::not_watched::NotWatched;
use crate::pods::Pods;
use crate::reconcile::{self, Reconciler, Triggers};
use crate::replicas::Follower;
use crate::resources::{ResourceEvent, ResourceWatch, Resources};
use crate::restarts::Restarts;
use crate::status::{self, StatusWriter};

pub struct ReplicaTasks {
    pub reconciler: Reconciler,
    pub managed_keys: ManagedKeys,
    pub follower: Follower,
    pub resource_watch: ResourceWatch,
    pub triggers: Triggers,
    pub status_writer: Arc<StatusWriter>,
    pub restarts: Restarts,
    pub not_watched: NotWatched,
    pub pods: Pods,
    pub resources: Resources,
    pub statuses_due: mpsc::UnboundedReceiver<ResourceRef>,
    pub set_listed: watch::Sender<bool>,
    pub knows_tokens: watch::Sender<bool>,
    pub metrics: Metrics,
    pub liveness: Liveness,
}

impl ReplicaTasks {
    /// Keeps the resources up to date from the start on, since every replica admits pods and serves sidecars by
    /// them, and reconciles them while this replica leads. A lead that is lost ends what the leader does and not
    /// the process: pods are admitted and sidecars served on, and where the API server was away for a while this
    /// replica may lead again.
    pub async fn run(
        mut self,
        mut elected: watch::Receiver<bool>,
        lead: watch::Sender<bool>,
    ) -> anyhow::Result<()> {
        let metrics = self.metrics.clone();
        loop {
            self.follow_until_elected(&mut elected).await?;
            info!("this replica leads");
            metrics.leads(true);
            self.knows_tokens.send_replace(true);
            lead.send_replace(true);
            tokio::select! {
                result = self.lead() => return result,
                // Dropped at once, since it holds a lock.
                lost = elected.wait_for(|leads| !leads) => drop(lost.context("the leader election ended")?),
            }
            warn!("this replica does not lead any more");
            metrics.leads(false);
            lead.send_replace(false);
            self.reconciler.stop();
        }
    }

    /// Until this replica has the lead and knows every resource: a leader that does not would tell sidecars
    /// that they are entitled to nothing.
    async fn follow_until_elected(&mut self, elected: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
        let Self {
            reconciler,
            follower,
            resource_watch,
            triggers,
            statuses_due,
            set_listed,
            liveness,
            ..
        } = self;
        let Triggers {
            references,
            managed_keys,
            pods,
            sidecars,
            token_refresh_requests,
        } = triggers;
        let mut ticks = tokio::time::interval(BEAT_INTERVAL);
        let listed = set_listed.subscribe();
        let until_elected = async {
            while !(*elected.borrow_and_update() && *listed.borrow()) {
                tokio::select! {
                    changed = elected.changed() => changed.context("the leader election ended")?,
                    event = resource_watch.next() => {
                        if let Some(resource) = event.resource() {
                            reconciler.watch_pods_of(&resource.namespace);
                        }
                        if event == ResourceEvent::Listed {
                            set_listed.send_replace(true);
                        }
                    }
                    // A leader begins with everything, so what only asks for something is left out.
                    Some(_) = references.recv() => {}
                    Some(_) = managed_keys.recv() => {}
                    Some(_) = pods.recv() => {}
                    Some(_) = sidecars.recv() => {}
                    Some(_) = statuses_due.recv() => {}
                    _ = ticks.tick() => {}
                }
                liveness.beat(reconcile::TASK);
            }
            Ok(())
        };
        tokio::select! {
            elected = until_elected => elected,
            never = follower.run(token_refresh_requests) => match never {},
        }
    }

    /// Leads for as long as it is polled.
    async fn lead(&mut self) -> anyhow::Result<()> {
        // Each lead has a queue of its own, that ends with it.
        let (queue, due) = mpsc::unbounded_channel();
        let is_taken_up = || {
            let mut taken_up = self.reconciler.taken_up();
            move |resource: &McpServerAuth| taken_up.problem(resource).is_none()
        };
        let forwarding = async {
            while let Some(resource) = self.statuses_due.recv().await {
                // Without a receiver the writing of statuses has ended.
                let _ = queue.send(resource);
            }
        };
        tokio::select! {
            () = self.reconciler.run(&mut self.resource_watch, &mut self.triggers) => {
                anyhow::bail!("reconciling ended")
            }
            () = status::run(self.status_writer.clone(), self.resources.store(), due) => {
                anyhow::bail!("writing statuses ended")
            }
            () = self.restarts.run() => anyhow::bail!("restarting workloads ended"),
            () = self.pods.keep_telling() => anyhow::bail!("telling workloads of their pods ended"),
            never = self.not_watched.mark() => match never {},
            never = self.managed_keys.keep(&self.resources, is_taken_up) => match never {},
            () = forwarding => anyhow::bail!("nothing asks for statuses any more"),
        }
    }
}
