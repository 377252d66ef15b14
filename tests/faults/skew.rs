//! This version and the one before it, as programs: an operator of the one serves sidecars of the other. `make skew` builds the
//! previous version and runs these.

use std::path::PathBuf;

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Program, Replica};
use mcp_auth_tests::sidecar_process::SidecarProcess;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use mcp_auth_tests::{oauth, setting};
use serde_json::{Value, json};

use crate::calls::{Calls, call};
use crate::fleet::configure;
use crate::service::Service;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    This,
    Previous,
}

struct Scene {
    world: World,
    client: String,
    folder: PathBuf,
    service: Service,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let client = format!("skew-{name}");
        let world = World::new(&client, false).await;
        configure(&world, &client, json!({})).await;
        let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(&client);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            world,
            client,
            folder,
            service: Service::start().await,
        }
    }

    /// A replica that sidecars come to from now on.
    async fn operator(&self, version: Version, name: &str) -> Replica {
        let operator = Operator {
            namespace: setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"),
            watched_namespace: self.world.namespace.clone(),
            lease: self.client.clone(),
            certificate_secret: "mcp-auth-operator-tls".into(),
            url: Some(setting("MCPAUTH_TEST_OPERATOR")),
            program: (version == Version::Previous).then(|| Program {
                path: setting("MCPAUTH_TEST_PREVIOUS_OPERATOR"),
                sidecar_settings: setting("MCPAUTH_TEST_PREVIOUS_SIDECAR_SETTINGS"),
            }),
            // The previous version knows no such rule, and forbids nothing.
            arguments: match version {
                Version::This => vec![ANY_ADDRESS.into()],
                Version::Previous => Vec::new(),
            },
        };
        let log = self.folder.join(format!("{name}.log"));
        let replica = operator.launch(name, None, Some(&log)).await;
        replica.until_leads().await;
        self.service.lead_to([replica.address.clone()]).await;
        replica
    }

    async fn sidecar(&self, version: Version, name: &str) -> SidecarProcess {
        let program = match version {
            Version::This => setting("MCPAUTH_TEST_SIDECAR_BINARY"),
            Version::Previous => setting("MCPAUTH_TEST_PREVIOUS_SIDECAR"),
        };
        SidecarProcess::start_program(&program, &self.world, name, &self.folder).await
    }

    /// The operator knows that the sidecar uses what it was sent.
    async fn is_synced(&self) {
        let status = self
            .world
            .condition("tools", conditions::SIDECARS_SYNCED, "True", reasons::SYNCED)
            .await;
        assert_eq!(status.sidecars.unwrap().summary, "1/1");
    }

    /// A new token, which the MCP server takes, reaches the sidecar while it is called.
    async fn is_renewed(&self, sidecar: &SidecarProcess) {
        let calls = Calls::start([&sidecar.endpoint]);
        let issued = oauth::issued(&self.client).await;
        // Another audience parameter is another token request.
        let patch = json!({"spec": {"oauth2": {"extraParameters": {"of": "the test"}}}});
        self.world.patch("tools", &patch).await.unwrap();
        until(
            "another token",
            async || oauth::issued(&self.client).await,
            |now| *now > issued,
        )
        .await;
        self.is_synced().await;
        let outcome = calls.finish().await;
        assert!(
            outcome.sent > 0 && outcome.failed.is_empty(),
            "{:?}",
            outcome.failed
        );
    }

    async fn takes_calls(&self, sidecar: &SidecarProcess) {
        let answer = async || call(&reqwest::Client::new(), &sidecar.endpoint).await;
        let answered = until("an answer of the MCP server", answer, Result::is_ok).await;
        assert_eq!(answered, Ok(()));
    }

    /// What a sidecar says of itself that does not understand all that it was sent.
    async fn nothing_is_too_old(&self) {
        let status: Value = serde_json::to_value(self.world.status("tools").await).unwrap();
        assert!(!status.to_string().contains("SidecarTooOld"), "{status}");
    }
}

#[tokio::test]
#[ignore = "needs the previous version's programs: make skew"]
async fn skew_the_previous_sidecar_is_served_by_this_operator() {
    let scene = Scene::new("old-sidecar").await;
    let _operator = scene.operator(Version::This, "new").await;
    let sidecar = scene.sidecar(Version::Previous, "litellm-0").await;
    scene.takes_calls(&sidecar).await;
    scene.is_synced().await;
    scene.is_renewed(&sidecar).await;
    scene.nothing_is_too_old().await;
}

#[tokio::test]
#[ignore = "needs the previous version's programs: make skew"]
async fn skew_this_sidecar_is_served_by_the_previous_operator() {
    let scene = Scene::new("old-operator").await;
    let _operator = scene.operator(Version::Previous, "old").await;
    let sidecar = scene.sidecar(Version::This, "litellm-0").await;
    scene.takes_calls(&sidecar).await;
    scene.is_synced().await;
    scene.is_renewed(&sidecar).await;
}

#[tokio::test]
#[ignore = "needs the previous version's programs: make skew"]
async fn skew_an_upgrade_from_the_previous_operator_fails_no_call_of_its_sidecars() {
    let scene = Scene::new("upgrade").await;
    let mut old = scene.operator(Version::Previous, "old").await;
    let sidecar = scene.sidecar(Version::Previous, "litellm-0").await;
    scene.takes_calls(&sidecar).await;
    let calls = Calls::start([&sidecar.endpoint]);
    let issued = async || oauth::issued(&scene.client).await;
    let before = issued().await;
    assert!(old.terminate().await, "it ended in order");
    let _new = scene.operator(Version::This, "new").await;
    until("the new operator's token", issued, |now| *now > before).await;
    scene.is_synced().await;
    let minted = issued().await - before;
    assert_eq!(
        minted, 1,
        "an operator of that version gives its tokens to no other"
    );
    scene.is_renewed(&sidecar).await;
    let outcome = calls.finish().await;
    assert!(
        outcome.sent > 0 && outcome.failed.is_empty(),
        "{:?}",
        outcome.failed
    );
    scene.nothing_is_too_old().await;
}
