//! Replicas of one operator behind its Service, with an authorization server, an MCP server, and sidecars that call
//! it all the time.

use std::path::PathBuf;
use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::Api;
use mcp_auth_crds::{McpServerAuthStatus, conditions};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_tests::registration::{Grant, Method, Registration};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Replica};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer, token};
use mcp_auth_tests::sidecar_process::{Endpoint, SidecarProcess};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{oauth, seen, setting};
use serde_json::{Value, json};

use crate::calls::Calls;
use crate::rows::Row;
use crate::service::Service;
use crate::status_writes::StatusWrites;

const SECRET: &str = "faults-client-s3cret";

pub struct Fleet {
    /// Where LiteLLM runs.
    pub world: World,
    pub client: String,
    operator_world: World,
    operator: Operator,
    service: Service,
    folder: PathBuf,
    pub replicas: Vec<Replica>,
    sidecars: Vec<SidecarProcess>,
    status_writes: StatusWrites,
    started: usize,
}

/// What there was when a fault began.
pub struct Before {
    at: Instant,
    calls: Calls,
    issued: usize,
    status_writes: usize,
    conditions: Vec<(String, String, String)>,
}

impl Fleet {
    /// Two replicas, of which one leads and the other knows its tokens, and a sidecar at each.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, json!({})).await
    }

    /// The same with more in the resource's `oauth2`.
    pub async fn start_with(name: &str, oauth2: Value) -> Self {
        let world = World::new(&format!("faults-{name}"), false).await;
        let operator_world = World::in_namespace(&setting("MCPAUTH_TEST_OPERATOR_NAMESPACE")).await;
        let account: Api<ServiceAccount> = operator_world.api();
        if account.get_opt("default").await.unwrap().is_none() {
            let account = json!({"metadata": {"name": "default"}});
            operator_world.create::<ServiceAccount>(account).await.unwrap();
        }
        let client = format!("faults-{name}");
        configure(&world, &client, oauth2).await;
        let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let operator = Operator {
            namespace: operator_world.namespace.clone(),
            watched_namespace: world.namespace.clone(),
            lease: format!("faults-{name}"),
            certificate_secret: "mcp-auth-operator-tls".into(),
            url: Some(setting("MCPAUTH_TEST_OPERATOR")),
            program: None,
            arguments: vec![ANY_ADDRESS.into()],
        };
        let mut fleet = Self {
            status_writes: StatusWrites::watch(&world),
            world,
            client,
            operator_world,
            operator,
            service: Service::start().await,
            folder,
            replicas: Vec::new(),
            sidecars: Vec::new(),
            started: 0,
        };
        fleet.add_replica().await;
        fleet.replicas[0].until_leads().await;
        fleet.add_replica().await;
        fleet.until_followed().await;
        for index in 0..2 {
            let name = format!("litellm-{index}");
            let sidecar = SidecarProcess::start(&fleet.world, &name, &fleet.folder).await;
            fleet.sidecars.push(sidecar);
        }
        fleet.until_synced(2).await;
        fleet.note_token().await;
        fleet.until_synced(2).await;
        for replica in &fleet.replicas {
            let connected = async || sidecars_of(replica).await;
            until("each replica to serve a sidecar", connected, |count| *count == 1).await;
        }
        fleet
    }

    /// One more replica, of the name of a new pod.
    pub async fn add_replica(&mut self) {
        self.started += 1;
        let name = format!("{}-{}", self.operator.lease, self.started);
        self.start_replica(&name).await;
    }

    /// A replica of this name: the kubelet starts a container that has crashed anew in the same pod.
    pub async fn start_replica(&mut self, name: &str) {
        self.give_token(name).await;
        let replica = self.launch_replica(name).await;
        replica.until_ready().await;
        self.take_in(replica).await;
    }

    /// What the kubelet gives a pod before its container starts.
    pub async fn give_token(&self, name: &str) {
        let token_file = self.token_file(name);
        if !token_file.exists() {
            let pod = self.operator_world.pod(name, json!({"app": "operator"})).await;
            let token = token(&self.operator_world, AUDIENCE, Some(&pod)).await;
            std::fs::write(&token_file, token).unwrap();
        }
    }

    fn token_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.token"))
    }

    /// A replica that need not be ready yet, and is not part of the fleet.
    pub async fn launch_replica(&mut self, name: &str) -> Replica {
        self.started += 1;
        let log = self.folder.join(format!("{name}-{}.log", self.started));
        self.operator
            .launch(name, Some(&self.token_file(name)), Some(&log))
            .await
    }

    pub async fn take_in(&mut self, replica: Replica) {
        self.replicas.push(replica);
        self.lead_service().await;
    }

    /// Takes the replica that leads out of the fleet.
    pub async fn take_leader(&mut self) -> Replica {
        let mut index = None;
        for (at, replica) in self.replicas.iter().enumerate() {
            if replica.leads().await {
                index = Some(at);
            }
        }
        self.replicas.remove(index.expect("one leads"))
    }

    pub async fn until_one_leads(&self) {
        let leading = async || {
            let mut leading = 0;
            for replica in &self.replicas {
                leading += usize::from(replica.leads().await);
            }
            leading
        };
        until("one replica to lead", leading, |leading| *leading == 1).await;
    }

    /// Until every replica follows the one that leads: each then passes on what its sidecars say.
    pub async fn until_followed(&self) {
        let leases: Api<Lease> = self.operator_world.api();
        let followers = async || {
            let lease = leases.get(&self.operator.lease).await.unwrap();
            let annotations = lease.metadata.annotations.unwrap_or_default();
            annotations.get("mcpauth.dev/followers").cloned()
        };
        let expected = Some((self.replicas.len() - 1).to_string());
        until("the other replicas to follow", followers, |count| {
            *count == expected
        })
        .await;
    }

    /// Until the connections of all sidecars are at replicas that live.
    pub async fn until_served(&self) {
        let connected = async || {
            let mut connected = 0;
            for replica in &self.replicas {
                connected += sidecars_of(replica).await;
            }
            connected
        };
        let all = self.sidecars.len();
        until("the sidecars to be connected again", connected, |count| {
            *count >= all
        })
        .await;
    }

    pub async fn until_synced(&self, sidecars: usize) {
        let summary = format!("{sidecars}/{sidecars}");
        let is_synced = |status: &McpServerAuthStatus| {
            let is_ready = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                condition.type_ == conditions::READY && condition.status == "True"
            };
            status.conditions.iter().any(is_ready)
                && status
                    .sidecars
                    .as_ref()
                    .is_some_and(|counts| counts.summary == summary)
        };
        until(
            "the sidecars to be counted",
            async || self.world.status("tools").await,
            is_synced,
        )
        .await;
    }

    /// A pod that starts now gets its token, and one call succeeds.
    pub async fn new_pod_is_served(&mut self, name: &str) {
        let sidecar = SidecarProcess::start(&self.world, name, &self.folder).await;
        let called = async || crate::calls::call(&reqwest::Client::new(), &sidecar.endpoint).await;
        let first_call = until("the first call of a new pod", called, Result::is_ok).await;
        assert_eq!(first_call, Ok(()));
        self.sidecars.push(sidecar);
    }

    /// Notes the token in use, for those who look that it is in no log.
    async fn note_token(&self) {
        let pod = self
            .world
            .pod("looks", json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        let mut sidecar = Sidecar::in_pod(&self.world, &pod).await;
        sidecar
            .until(|snapshot| bearer(snapshot, "tools").is_some())
            .await;
        self.world.delete::<Pod>("looks").await;
        while sidecar.next().await.is_some() {}
    }

    /// Where LiteLLM would call the server, at each sidecar.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.sidecars.iter().map(|sidecar| &sidecar.endpoint)
    }

    /// Begins the calls. That the MCP server answers them is told in the status, and is no part of the fault.
    pub async fn begin(&self) -> Before {
        let calls = Calls::start(self.endpoints());
        let answered = format!("answers {0} of {0} sidecars", self.sidecars.len());
        until(
            "the status to tell of the calls",
            async || message(&self.status_writes.last(), conditions::SERVER_REACHABLE),
            |told| told.contains(&answered),
        )
        .await;
        Before {
            at: Instant::now(),
            calls,
            issued: oauth::issued(&self.client).await,
            status_writes: self.status_writes.count(),
            conditions: self.conditions().await,
        }
    }

    /// Ends the calls. No call failed, no condition changed, and nothing was logged that must not be.
    pub async fn finish(&self, before: Before, fault: &'static str, done: &'static str) -> Row {
        let seconds_until_calm = before.at.elapsed().as_secs();
        let outcome = before.calls.finish().await;
        let writes = self.status_writes.since(before.status_writes);
        // For whoever looks why there are as many.
        std::fs::write(self.folder.join("status-writes"), writes.join("\n")).unwrap();
        let row = Row {
            fault,
            done,
            calls: outcome.sent,
            failed: outcome.failed.len(),
            minted: oauth::issued(&self.client).await - before.issued,
            seconds_until_calm,
            status_writes: writes.len(),
        };
        assert!(outcome.sent > 0);
        assert!(outcome.failed.is_empty(), "{fault}: {:?}", outcome.failed);
        assert_eq!(self.conditions().await, before.conditions, "{fault}");
        assert!(row.status_writes <= row.minted, "{fault}: {writes:#?}");
        self.look_for_secrets();
        row.write();
        row
    }

    /// Type, status and since when.
    async fn conditions(&self) -> Vec<(String, String, String)> {
        let status = self.world.status("tools").await;
        let conditions = status.conditions.into_iter();
        conditions
            .map(|condition| {
                let since = condition.last_transition_time.0.to_string();
                (condition.type_, condition.status, since)
            })
            .collect()
    }

    fn look_for_secrets(&self) {
        let secrets = seen::all();
        for entry in std::fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = std::fs::read_to_string(&path).unwrap();
                assert!(!log.is_empty());
                let found = secrets.iter().find(|secret| log.contains(&***secret));
                assert!(found.is_none(), "a secret is in {}", path.display());
            }
        }
    }

    /// Leads the Service to the replicas that there are.
    pub async fn lead_service(&self) {
        let addresses = self.replicas.iter().map(|replica| replica.address.clone());
        self.service.lead_to(addresses).await;
    }

    pub fn leases(&self) -> (Api<Lease>, String) {
        (self.operator_world.api(), self.operator.lease.clone())
    }
}

impl Before {
    pub fn issued(&self) -> usize {
        self.issued
    }
}

pub async fn configure(world: &World, client: &str, more: Value) {
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let url = setting("MCPAUTH_TEST_MCP");
    let registration = Registration {
        resource: url.clone(),
        grant: match more.get("tokenExchange") {
            Some(_) => Grant::TokenExchange,
            None => Grant::ClientCredentials,
        },
        ..Registration::new(client, Method::SecretBasic(SECRET.into()))
    };
    oauth::register(&registration).await;
    let authentication =
        json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}});
    let mut spec = Server::OidcProvider.oauth2(client, authentication);
    merge(&mut spec, json!({"oauth2": more}));
    let mut object = resource("tools", "tools", spec);
    object["spec"]["server"]["url"] = url.into();
    object["spec"]["server"]["allowInsecureHttp"] = true.into();
    world.apply(&object).await.unwrap();
}

async fn sidecars_of(replica: &Replica) -> usize {
    let metrics = replica.get("/metrics").await.unwrap_or_default();
    let mut lines = metrics.lines();
    let line = lines.find_map(|line| line.strip_prefix("mcpauth_operator_sidecars "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}
