//! The real sidecar of a pod that only the API server knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_tests::replica::free_address;
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::{authority_pem, token};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde::Deserialize;
use serde_json::json;
use tokio::process::{Child, Command};

pub struct SidecarProcess {
    pub endpoint: Endpoint,
    _process: Child,
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
        let pod = world
            .pod(name, json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        let files = folder.join(name);
        std::fs::create_dir_all(&files).unwrap();
        let token = token(world, AUDIENCE, Some(&pod)).await;
        std::fs::write(files.join("token"), token).unwrap();
        let [outbound, health] = [free_address().await, free_address().await];
        let process = Command::new(program)
            .arg("serve")
            .env("MCPAUTH_OUTBOUND", &outbound)
            .env("MCPAUTH_HEALTH", &health)
            .env("MCPAUTH_OVERLAY", files.join("overlay.yaml"))
            .env("MCPAUTH_OPERATOR", setting("MCPAUTH_TEST_OPERATOR"))
            .env("MCPAUTH_OPERATOR_CA", authority_pem(world).await)
            .env("MCPAUTH_TOKEN_FILE", files.join("token"))
            .envs(identity(&pod))
            .env("MCPAUTH_AUDIT_LOG", files.join("audit"))
            .stdout(std::fs::File::create(files.join("log")).unwrap())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the sidecar starts");
        let started = async || {
            let answer = reqwest::get(format!("http://{health}/startup")).await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        until("the sidecar to have its tokens", started, |started| *started).await;
        let overlay = std::fs::read_to_string(files.join("overlay.yaml")).unwrap();
        let mut overlay: Overlay = serde_saphyr::from_str(&overlay).unwrap();
        Self {
            endpoint: overlay.mcp_servers.remove(server).unwrap(),
            _process: process,
        }
    }
}

fn identity(pod: &Pod) -> [(&'static str, String); 3] {
    [
        ("MCPAUTH_POD_NAMESPACE", pod.namespace().unwrap()),
        ("MCPAUTH_POD_NAME", pod.name_any()),
        ("MCPAUTH_POD_UID", pod.uid().unwrap()),
    ]
}
