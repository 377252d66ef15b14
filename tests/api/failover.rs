//! Replicas of the operator of a test's own, with a Lease of their own: what becomes of the lead.

use std::process::Stdio;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

const LEASE: &str = "failover";

struct Replica {
    name: &'static str,
    process: Child,
    health: String,
}

impl Replica {
    async fn start(world: &World, name: &'static str) -> Self {
        let [listen, health] = [free_address().await, free_address().await];
        let process = Command::new(setting("MCPAUTH_TEST_OPERATOR_PROGRAM"))
            .args([
                "--namespace",
                &world.namespace,
                "--watch-namespace",
                &world.namespace,
            ])
            .args([
                "--identity",
                name,
                "--lease",
                LEASE,
                "--certificate-secret",
                "failover-tls",
            ])
            .args(["--listen", &listen, "--listen-health", &health])
            .args([
                "--operator-url",
                &format!("https://{listen}"),
                "--serving-name",
                "127.0.0.1",
            ])
            .args(["--sidecar-settings", &setting("MCPAUTH_TEST_SIDECAR_SETTINGS")])
            .args(["--webhook-configuration", "failover-has-none"])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the operator starts");
        let replica = Self {
            name,
            process,
            health: format!("http://{health}"),
        };
        until(
            "the replica to be ready",
            async || replica.get("/readyz").await,
            Option::is_some,
        )
        .await;
        replica
    }

    /// The body of a successful answer.
    async fn get(&self, path: &str) -> Option<String> {
        let response = reqwest::get(format!("{}{path}", self.health)).await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    async fn leads(&self) -> bool {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        metrics.lines().any(|line| line == "mcpauth_operator_leader 1")
    }

    fn is_running(&mut self) -> bool {
        self.process
            .try_wait()
            .expect("it is a child of this process")
            .is_none()
    }
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

async fn until_leads(replica: &Replica) {
    let what = format!("{} to lead", replica.name);
    until(&what, async || replica.leads().await, |leads| *leads).await;
}

#[tokio::test]
async fn a_lead_that_is_lost_ends_no_process_and_the_next_replica_takes_it() {
    let world = World::new("failover", false).await;
    let mut first = Replica::start(&world, "first").await;
    until_leads(&first).await;
    let second = Replica::start(&world, "second").await;
    assert!(!second.leads().await, "one leads");

    // Somebody else takes the lease, and never renews it.
    let leases: Api<Lease> = world.api();
    let patch = json!({"spec": {"holderIdentity": "somebody"}});
    leases
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until(
        "the first to stop leading",
        async || first.leads().await,
        |leads| !leads,
    )
    .await;
    assert!(first.is_running(), "it goes on reviewing pods");
    assert!(first.get("/healthz").await.is_some() && first.get("/readyz").await.is_some());
    let holder = async || {
        let spec = leases.get(LEASE).await.unwrap().spec.unwrap();
        spec.holder_identity.unwrap_or_default()
    };
    let is_ours = |holder: &String| holder == "first" || holder == "second";
    let leader = until("one of both to hold the lease again", holder, is_ours).await;

    // A crash, and a graceful end.
    let (mut crashing, mut other) = match leader == "first" {
        true => (first, second),
        false => (second, first),
    };
    until_leads(&crashing).await;
    crashing.process.kill().await.unwrap();
    until_leads(&other).await;
    let third = Replica::start(&world, "third").await;
    let pid = other.process.id().expect("it runs").to_string();
    let signalled = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    assert!(signalled.success());
    until_leads(&third).await;
    assert!(other.process.wait().await.unwrap().success(), "it ended in order");
}
