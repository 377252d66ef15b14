//! The real sidecar of a pod that only the API server knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_protocol::pod::AUDIENCE;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::replica::free_address;
use crate::setting;
use crate::sidecar::{authority_pem, token};
use crate::wait::until;
use crate::world::World;

pub struct SidecarProcess {
    pub endpoint: Endpoint,
    /// Where users call; none where it is beside no LiteLLM.
    pub inbound: Option<SocketAddr>,
    /// Its probes and metrics.
    pub health: SocketAddr,
    _process: Child,
}

/// Where a sidecar finds the operator.
#[derive(Clone, Debug)]
pub struct OperatorEndpoint {
    pub url: String,
    /// What it trusts the operator by, in PEM.
    pub authority: String,
}

impl OperatorEndpoint {
    /// Of the operator that all tests share.
    async fn shared(world: &World) -> Self {
        Self {
            url: setting("MCPAUTH_TEST_OPERATOR"),
            authority: authority_pem(world).await,
        }
    }
}

/// What LiteLLM reads of its MCP server in the overlay.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    pub url: String,
    /// By which the sidecar knows LiteLLM. The first versions asked for none.
    #[serde(default)]
    pub static_headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Overlay {
    mcp_servers: BTreeMap<String, Endpoint>,
}

impl SidecarProcess {
    /// Starts it in a pod of this name, and returns once LiteLLM would start.
    pub async fn start(world: &World, name: &str, folder: &Path) -> Self {
        Self::start_program(&setting("MCPAUTH_TEST_SIDECAR_BINARY"), world, name, folder).await
    }

    /// The same, for a server of another name than `tools`.
    pub async fn start_for(world: &World, name: &str, folder: &Path, server: &str) -> Self {
        let program = setting("MCPAUTH_TEST_SIDECAR_BINARY");
        Self::start_program_for(&program, world, name, folder, server).await
    }

    /// The same of another version's program.
    pub async fn start_program(program: &str, world: &World, name: &str, folder: &Path) -> Self {
        Self::start_program_for(program, world, name, folder, "tools").await
    }

    async fn start_program_for(
        program: &str,
        world: &World,
        name: &str,
        folder: &Path,
        server: &str,
    ) -> Self {
        let operator = OperatorEndpoint::shared(world).await;
        Self::start_at(&operator, program, world, name, (server, folder)).await
    }

    /// The same at another operator.
    pub async fn start_at(
        operator: &OperatorEndpoint,
        program: &str,
        world: &World,
        name: &str,
        (server, folder): (&str, &Path),
    ) -> Self {
        let pod = world
            .pod(name, json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        Self::spawn(operator, program, world, (&pod, server), None, folder).await
    }

    /// The sidecar of this pod, between its users and a LiteLLM at this address.
    pub async fn beside(world: &World, pod: &Pod, litellm: SocketAddr, folder: &Path) -> Self {
        let program = setting("MCPAUTH_TEST_SIDECAR_BINARY");
        let operator = OperatorEndpoint::shared(world).await;
        let sidecar = Self::spawn(&operator, &program, world, (pod, "tools"), Some(litellm), folder).await;
        let inbound = sidecar.inbound.expect("it is beside a LiteLLM");
        let open = async || TcpStream::connect(inbound).await.is_ok();
        until("the sidecar to take users' requests", open, |open| *open).await;
        sidecar
    }

    async fn spawn(
        operator: &OperatorEndpoint,
        program: &str,
        world: &World,
        (pod, server): (&Pod, &str),
        litellm: Option<SocketAddr>,
        folder: &Path,
    ) -> Self {
        let launched = LaunchedSidecar::new(operator, program, world, pod, (litellm, folder), &[]).await;
        launched.is_started().await;
        let files = folder.join(pod.name_any());
        let overlay = std::fs::read_to_string(files.join("overlay.yaml")).expect("LiteLLM may start");
        let mut overlay: Overlay = serde_saphyr::from_str(&overlay).expect("LiteLLM's configuration");
        Self {
            endpoint: overlay.mcp_servers.remove(server).expect("the server"),
            inbound: litellm.map(|_| launched.inbound),
            health: launched.health,
            _process: launched.process,
        }
    }
}

/// A sidecar that LiteLLM's start may have to wait for.
pub struct LaunchedSidecar {
    inbound: SocketAddr,
    health: SocketAddr,
    process: Child,
}

impl LaunchedSidecar {
    /// In this pod, with these environment variables besides its own.
    pub async fn in_pod(world: &World, pod: &Pod, folder: &Path, variables: &[(&str, &str)]) -> Self {
        let program = setting("MCPAUTH_TEST_SIDECAR_BINARY");
        let operator = OperatorEndpoint::shared(world).await;
        Self::new(&operator, &program, world, pod, (None, folder), variables).await
    }

    async fn new(
        operator: &OperatorEndpoint,
        program: &str,
        world: &World,
        pod: &Pod,
        (litellm, folder): (Option<SocketAddr>, &Path),
        variables: &[(&str, &str)],
    ) -> Self {
        let files = folder.join(pod.name_any());
        std::fs::create_dir_all(&files).expect("the folder is the test's");
        let token = token(world, AUDIENCE, Some(pod)).await;
        std::fs::write(files.join("token"), token).expect("the folder is the test's");
        let [inbound, outbound, health] = [free_address().await, free_address().await, free_address().await];
        let mut command = Command::new(program);
        if let Some(litellm) = litellm {
            command
                .env("MCPAUTH_INBOUND", &inbound)
                .env("MCPAUTH_LITELLM", litellm.to_string());
        }
        let process = command
            .arg("serve")
            .env("MCPAUTH_OUTBOUND", &outbound)
            .env("MCPAUTH_HEALTH", &health)
            .env("MCPAUTH_OVERLAY", files.join("overlay.yaml"))
            .env("MCPAUTH_OPERATOR", &operator.url)
            .env("MCPAUTH_OPERATOR_CA", &operator.authority)
            .env("MCPAUTH_TOKEN_FILE", files.join("token"))
            .envs(identity(pod))
            .env("MCPAUTH_AUDIT_LOG", files.join("audit"))
            .envs(variables.iter().copied())
            .stdout(std::fs::File::create(files.join("log")).expect("the folder is the test's"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the sidecar starts");
        let address = |text: &str| text.parse().expect("an address");
        Self {
            inbound: address(&inbound),
            health: address(&health),
            process,
        }
    }

    /// Returns once LiteLLM would start.
    pub async fn is_started(&self) {
        let started = async || {
            let answer = reqwest::get(format!("http://{}/startup", self.health)).await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        until("the sidecar to have its tokens", started, |started| *started).await;
    }
}

fn identity(pod: &Pod) -> [(&'static str, String); 3] {
    [
        ("MCPAUTH_POD_NAMESPACE", pod.namespace().expect("a namespace")),
        ("MCPAUTH_POD_NAME", pod.name_any()),
        ("MCPAUTH_POD_UID", pod.uid().expect("a uid")),
    ]
}
