//! Replicas of the operator that a test starts and ends itself, as processes of this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::setting;
use crate::wait::{LIMIT, until};
use crate::world::World;

/// All servers of the tests are at loopback.
pub const ANY_ADDRESS: &str = "--allowed-addresses=Any";

pub struct Replica {
    pub name: String,
    /// `ADDRESS:PORT` of webhook and sidecars.
    pub address: String,
    /// What it writes to.
    pub log: Option<PathBuf>,
    process: Child,
    health: String,
}

/// What replicas of one operator have in common.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Of the lease and the certificates.
    pub namespace: String,
    /// Empty: every namespace.
    pub watched_namespace: String,
    pub lease: String,
    pub certificate_secret: String,
    /// URL that sidecars reach it by; nothing: that of the replica.
    pub url: Option<String>,
    /// Another version than this one.
    pub program: Option<Program>,
    /// What it allows; see [`ANY_ADDRESS`].
    pub arguments: Vec<String>,
}

/// The operator of a version, as its chart runs it.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: String,
    /// File with the settings of sidecars, with the fields that this version knows.
    pub sidecar_settings: String,
}

impl Program {
    fn of_this_version() -> Self {
        Self {
            path: setting("MCPAUTH_TEST_OPERATOR_PROGRAM"),
            sidecar_settings: setting("MCPAUTH_TEST_SIDECAR_SETTINGS"),
        }
    }
}

impl Operator {
    /// Starts a replica that is ready. `token_file` is what it follows the others by, `log` what it writes to.
    pub async fn start(&self, name: &str, token_file: Option<&Path>, log: Option<&PathBuf>) -> Replica {
        let replica = self.launch(name, token_file, log).await;
        replica.until_ready().await;
        replica
    }

    /// The same of one that need not be ready yet.
    pub async fn launch(&self, name: &str, token_file: Option<&Path>, log: Option<&PathBuf>) -> Replica {
        let change = |command: &mut Command| {
            command.args(["--webhook-configuration", "of-a-test-that-has-none"]);
        };
        self.launch_with(name, token_file, log, change).await
    }

    /// The same with the chart's webhook and level of the log, unless `change` says otherwise.
    pub async fn start_with(
        &self,
        name: &str,
        token_file: Option<&Path>,
        log: Option<&PathBuf>,
        change: impl FnOnce(&mut Command),
    ) -> Replica {
        let replica = self.launch_with(name, token_file, log, change).await;
        replica.until_ready().await;
        replica
    }

    /// The Lease as an operator that ended in order has left it: the first of an installation would wait for 15 s, since
    /// somebody may have deleted the Lease of one that leads.
    async fn make_lease(&self) {
        let world = World::in_namespace(&self.namespace).await;
        // Another replica may have been first.
        let _ = world
            .create::<Lease>(json!({"metadata": {"name": self.lease}, "spec": {}}))
            .await;
    }

    async fn launch_with(
        &self,
        name: &str,
        token_file: Option<&Path>,
        log: Option<&PathBuf>,
        change: impl FnOnce(&mut Command),
    ) -> Replica {
        // Another version makes its own.
        if self.program.is_none() {
            self.make_lease().await;
        }
        let [address, health] = [free_address().await, free_address().await];
        let url = self.url.clone().unwrap_or_else(|| format!("https://{address}"));
        let program = self.program.clone().unwrap_or_else(Program::of_this_version);
        let mut command = Command::new(&program.path);
        command
            .args(["--namespace", &self.namespace, "--service-account", "default"])
            .args(["--identity", name, "--lease", &self.lease])
            .args(["--certificate-secret", &self.certificate_secret])
            .args(["--listen", &address, "--listen-health", &health])
            .args(["--operator-url", &url, "--serving-name", "127.0.0.1"])
            .args(["--sidecar-settings", &program.sidecar_settings])
            .args(&self.arguments);
        if !self.watched_namespace.is_empty() {
            command.args(["--watch-namespace", &self.watched_namespace]);
        }
        if let Some(token_file) = token_file {
            command
                .args(["--pod-ip", "127.0.0.1", "--replica-token-file"])
                .arg(token_file);
        }
        let states_level = self
            .arguments
            .iter()
            .any(|argument| argument.starts_with("--log="));
        if log.is_some() && !states_level {
            command.args(["--log", "debug,hyper=info,h2=info,tower=info,rustls=info"]);
        }
        change(&mut command);
        Replica::spawn(name, &mut command, (address, health), log)
    }
}

impl Replica {
    /// Starts the program by this command, which has been told to listen at the two addresses.
    pub fn spawn(
        name: &str,
        command: &mut Command,
        (address, health): (String, String),
        log: Option<&PathBuf>,
    ) -> Self {
        if let Some(log) = log {
            let log = std::fs::File::create(log).expect("the log can be written");
            // Why it does not start stands there too.
            command.stderr(log.try_clone().expect("it is open")).stdout(log);
        } else {
            command.stdout(Stdio::null());
        }
        let log_file = log.cloned();
        let process = command.kill_on_drop(true).spawn();
        Self {
            name: name.to_owned(),
            address,
            log: log_file,
            process: process.expect("the operator starts"),
            health: format!("http://{health}"),
        }
    }

    pub async fn until_ready(&self) {
        let ready = async || self.get("/readyz").await;
        until(&format!("{} to be ready", self.name), ready, Option::is_some).await;
    }

    /// The body of a successful answer of the health port.
    pub async fn get(&self, path: &str) -> Option<String> {
        let response = reqwest::get(format!("{}{path}", self.health)).await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    pub async fn leads(&self) -> bool {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        metrics.lines().any(|line| line == "mcpauth_operator_leader 1")
    }

    pub async fn until_leads(&self) {
        let what = format!("{} to lead", self.name);
        until(&what, async || self.leads().await, |leads| *leads).await;
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    pub fn is_running(&mut self) -> bool {
        let status = self.process.try_wait();
        status.expect("it is a child of this process").is_none()
    }

    /// As a crash does it.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("it can be killed");
    }

    /// As the kubelet does it. Whether it ended in order.
    pub async fn terminate(&mut self) -> bool {
        let pid = self.id().to_string();
        let signalled = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(signalled.expect("kill is there").success());
        self.ended_well().await
    }

    /// Whether it ended in order, once it has ended by itself.
    pub async fn ended_well(&mut self) -> bool {
        let status = tokio::time::timeout(LIMIT, self.process.wait()).await;
        let status = status.expect("it ends");
        status.expect("it is a child of this process").success()
    }
}

/// One that nothing listens at.
pub async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}
