//! Leader election by a Lease, by the rules of client-go's `leaderelection`: one replica leads; it alone mints
//! tokens and writes status, and the others follow it at the address that it writes into the Lease. [`observed_lease`] decides, this file calls the API server.
//!
//! - A leader stops by its own clock when it could not renew for [`Timing::renew_deadline`], whatever its last
//!   call is waiting for. The others wait longer than that, also where there is no Lease: somebody may have deleted it.
//!   So two lead at once only where a Lease is written by hand that says that nobody does, until the leader's next renewal,
//!   where a machine was suspended, and where the Lease and the Secret of the certificates were deleted together (ADR 7).
//! - How long the others wait, each measures from when it last saw the Lease change. Times that another
//!   replica wrote into the Lease are for people: clocks that differ depose nobody.
//! - The Lease is written by resource version, so that of two replicas that try one succeeds.

mod observed_lease;

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use observed_lease::{Action, Contender, LeaseAnnotations, ObservedLease, released};

/// The intervals of an election. They contain one another: a call ends before the renew deadline, and that
/// before the lease.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long the others wait after the last change of the Lease that they saw, in whole seconds.
    pub lease_duration: Duration,
    /// How long a leader leads on after the begin of its last successful renewal. The difference to
    /// `lease_duration` is its time to stop in.
    pub renew_deadline: Duration,
    /// Between two renewals.
    pub renew_interval: Duration,
    /// Between two looks at a Lease that another replica holds, and after a renewal that failed.
    pub retry_interval: Duration,
    /// Longest wait for the API server at one look or renewal.
    pub call_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_interval: Duration::from_secs(3),
            retry_interval: Duration::from_secs(1),
            call_timeout: Duration::from_secs(3),
        }
    }
}

/// A replica that takes part in the election.
pub struct Candidate {
    pub client: Client,
    /// Namespace and name of the Lease.
    pub namespace: String,
    pub lease: String,
    /// Unique among the replicas.
    pub identity: String,
    /// Where the others follow this replica while it leads.
    pub address: Option<SocketAddr>,
    /// How many do.
    pub followers: watch::Receiver<usize>,
    /// Whether this replica knows the tokens of the leader.
    pub knows_tokens: watch::Receiver<bool>,
    /// Whether this process made the certificates that all replicas serve with, so that none can have led before.
    pub is_first: bool,
    pub timing: Timing,
}

/// What taking part in the election tells.
pub struct Participation {
    /// Whether this replica leads. The Lease is released when all receivers are dropped.
    pub leads: watch::Receiver<bool>,
    pub leader: watch::Receiver<Leader>,
    pub task: JoinHandle<()>,
}

/// Which replica leads, as far as this one knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Leader {
    #[default]
    Unknown,
    ThisReplica,
    Other {
        /// Where it is followed, if it says so.
        address: Option<SocketAddr>,
        /// The API server said so at the last look, and was not away.
        is_confirmed: bool,
    },
}

#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("the API server did not answer within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    ApiServer(#[from] kube::Error),
}

/// Who holds the Lease, after a look at it.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Holder {
    ThisReplica,
    Other(String),
    /// Another replica wrote it at the same moment.
    Contested,
}

impl Candidate {
    /// Takes part until all receivers of `leads` are dropped; then releases the Lease, if this replica holds
    /// it, and ends.
    pub fn take_part(self) -> Participation {
        let (leads, receiver) = watch::channel(false);
        let (leader, known_leader) = watch::channel(Leader::Unknown);
        let election = Election {
            leases: Api::namespaced(self.client, &self.namespace),
            name: self.lease,
            identity: self.identity,
            address: self.address,
            followers: self.followers,
            knows_tokens: self.knows_tokens,
            first_until: self.is_first.then(|| Instant::now() + self.timing.lease_duration),
            timing: self.timing,
            observed: ObservedLease::default(),
            has_led: false,
            leads: false,
            leader,
        };
        Participation {
            leads: receiver,
            leader: known_leader,
            task: tokio::spawn(election.run(leads)),
        }
    }
}

struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    address: Option<SocketAddr>,
    followers: watch::Receiver<usize>,
    knows_tokens: watch::Receiver<bool>,
    /// Until when an absent Lease shows that nobody leads: another replica may have come and led once it is over.
    first_until: Option<Instant>,
    timing: Timing,
    observed: ObservedLease,
    has_led: bool,
    leads: bool,
    leader: watch::Sender<Leader>,
}

impl Election {
    async fn run(mut self, leads: watch::Sender<bool>) {
        loop {
            let acquired = tokio::select! {
                biased;
                () = leads.closed() => break,
                acquired = self.acquire() => acquired,
            };
            leads.send_replace(true);
            self.leads = true;
            tokio::select! {
                biased;
                () = leads.closed() => break,
                () = self.renew_from(acquired) => {}
            }
            self.leads = false;
            leads.send_replace(false);
        }
        self.release().await;
    }

    /// Tries until this replica holds the Lease; returns when the successful attempt began.
    async fn acquire(&mut self) -> Instant {
        let mut last_failure = None;
        loop {
            let began = Instant::now();
            match self.attempt().await {
                Ok(Holder::ThisReplica) => return began,
                Ok(holder) => {
                    debug!(?holder, "another replica leads");
                    last_failure = None;
                }
                // One that lasts is logged once.
                Err(error) => {
                    let message = error.to_string();
                    if last_failure.as_ref() == Some(&message) {
                        debug!(%error, "still no answer about the leader election lease");
                    } else {
                        warn!(%error, lease = self.name, "the leader election lease could not be acquired; trying again");
                        last_failure = Some(message);
                    }
                }
            }
            sleep(self.timing.retry_interval).await;
        }
    }

    /// Renews the Lease for as long as that succeeds in time.
    async fn renew_from(&mut self, acquired: Instant) {
        let mut renewed = acquired;
        loop {
            let deadline = renewed + self.timing.renew_deadline;
            match timeout_at(deadline, self.renew()).await {
                Ok(Ok(began)) => renewed = began,
                Ok(Err(other)) => {
                    return warn!(
                        holder = other,
                        "another replica has taken the leader election lease"
                    );
                }
                Err(_) => {
                    let seconds = self.timing.renew_deadline.as_secs();
                    return warn!(seconds, "the leader election lease could not be renewed in time");
                }
            }
        }
    }

    /// When the next successful renewal began, or the replica that holds the Lease instead.
    async fn renew(&mut self) -> Result<Instant, String> {
        // How many follow is written at once: another replica may have to go by it.
        let rest = sleep(self.timing.renew_interval);
        tokio::select! {
            () = rest => {}
            Ok(()) = self.followers.changed() => {}
        }
        loop {
            let began = Instant::now();
            match self.attempt().await {
                Ok(Holder::ThisReplica) => return Ok(began),
                Ok(Holder::Other(holder)) => return Err(holder),
                // The next look tells who it was.
                Ok(Holder::Contested) => {}
                Err(error) => {
                    warn!(%error, lease = self.name, "the leader election lease could not be renewed; trying again");
                }
            }
            sleep(self.timing.retry_interval).await;
        }
    }

    /// Looks at the Lease, writes it where this replica may, and tells who leads.
    async fn attempt(&mut self) -> Result<Holder, ElectionError> {
        let limit = self.timing.call_timeout;
        let attempt = timeout(limit, self.look_and_write()).await;
        let attempt = attempt.unwrap_or(Err(ElectionError::Silent(limit)));
        let leader = match (&attempt, *self.leader.borrow()) {
            (Ok(Holder::ThisReplica), _) => Leader::ThisReplica,
            // Of an earlier process of this name, or of none.
            (Ok(Holder::Other(holder)), _) if holder.is_empty() || *holder == self.identity => {
                Leader::Unknown
            }
            (Ok(Holder::Other(_)), _) => Leader::Other {
                address: self.observed.address(),
                is_confirmed: true,
            },
            (Err(_), Leader::Other { address, .. }) => Leader::Other {
                address,
                is_confirmed: false,
            },
            (Ok(Holder::Contested) | Err(_), before) => before,
        };
        self.leader.send_if_modified(|known| {
            let is_changed = *known != leader;
            *known = leader;
            is_changed
        });
        attempt
    }

    async fn look_and_write(&mut self) -> Result<Holder, ElectionError> {
        let found = self.leases.get_opt(&self.name).await?;
        let now = Instant::now();
        self.observed.observe(found.as_ref(), now);
        let lease_duration = self.timing.lease_duration;
        let contender = Contender {
            identity: &self.identity,
            lease_duration,
            has_led: self.has_led,
            knows_tokens: *self.knows_tokens.borrow(),
            leads: self.leads,
            is_first: self.first_until.is_some_and(|until| now < until),
        };
        let action = self.observed.action(contender, now);
        let written = match action {
            Action::Wait { holder } => return Ok(Holder::Other(holder)),
            Action::Write { acquires } => {
                let spec =
                    self.observed
                        .spec_held_by(&self.identity, lease_duration, acquires, Timestamp::now());
                let annotations = LeaseAnnotations {
                    address: self.address,
                    followers: *self.followers.borrow(),
                };
                match found {
                    None => {
                        let mut metadata = ObjectMeta {
                            name: Some(self.name.clone()),
                            ..ObjectMeta::default()
                        };
                        annotations.write(&mut metadata.annotations);
                        let lease = Lease {
                            metadata,
                            spec: Some(spec),
                        };
                        self.leases.create(&PostParams::default(), &lease).await
                    }
                    Some(found) => {
                        let mut lease = Lease {
                            spec: Some(spec),
                            ..found
                        };
                        annotations.write(&mut lease.metadata.annotations);
                        self.leases
                            .replace(&self.name, &PostParams::default(), &lease)
                            .await
                    }
                }
            }
        };
        match written {
            Ok(lease) => {
                self.observed.observe(Some(&lease), Instant::now());
                self.has_led = true;
                Ok(Holder::ThisReplica)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Holder::Contested),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the next leader follow at once. The Lease may be this replica's although it does not lead: by an
    /// acquisition that was given up halfway.
    async fn release(&self) {
        match timeout(self.timing.call_timeout, self.write_released()).await {
            Ok(Ok(true)) => info!(lease = self.name, "released the leader election lease"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                warn!(%error, "the leader election lease was not released; it runs out by itself")
            }
            Err(_) => warn!("the leader election lease was not released in time; it runs out by itself"),
        }
    }

    /// Whether there was something to release.
    async fn write_released(&self) -> kube::Result<bool> {
        let Some(found) = self.leases.get_opt(&self.name).await? else {
            return Ok(false);
        };
        let Some(spec) = found
            .spec
            .as_ref()
            .and_then(|spec| released(spec, &self.identity))
        else {
            return Ok(false);
        };
        let lease = Lease {
            spec: Some(spec),
            ..found
        };
        self.leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
