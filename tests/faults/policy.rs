//! What the administrator forbids the authors of resources, by a replica with rules of its own.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::sync::Credential;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Replica};
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer, credential};
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{oauth, setting};
use serde_json::{Value, json};

use crate::service::Service;

const SECRET: &str = "p0licy-client-s3cret";
/// Of the Secret, and named by no resource.
const OTHER_KEY: &str = "key-of-something-else";

struct Scene {
    world: World,
    client: String,
    _replica: Replica,
    _service: Service,
}

impl Scene {
    /// An operator with these arguments, a client, and a resource with its Secret.
    async fn start(name: &str, arguments: &[&str], key: &str) -> Self {
        let client = format!("policy-{name}");
        let world = World::new(&client, false).await;
        world.trust().await;
        world.secret("client", "client-secret", SECRET).await;
        let other = json!({"stringData": {OTHER_KEY: "x"}});
        let secrets: Api<Secret> = world.api();
        secrets
            .patch("client", &PatchParams::default(), &Patch::Merge(other))
            .await
            .unwrap();
        let registration = Registration::new(&client, Method::SecretBasic(SECRET.into()));
        oauth::register(&registration).await;
        let service = Service::start().await;
        let operator = Operator {
            namespace: setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"),
            watched_namespace: world.namespace.clone(),
            lease: client.clone(),
            certificate_secret: "mcp-auth-operator-tls".into(),
            url: Some(setting("MCPAUTH_TEST_OPERATOR")),
            program: None,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        let replica = operator.start(&client, None, None).await;
        replica.until_leads().await;
        service.lead_to([replica.address.clone()]).await;
        let authentication =
            json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": key}});
        let spec = Server::OidcProvider.oauth2(&client, authentication);
        world.apply(&resource("tools", "tools", spec)).await.unwrap();
        Self {
            world,
            client,
            _replica: replica,
            _service: service,
        }
    }

    /// The message of the refusal, which both conditions have.
    async fn refusal(&self) -> String {
        let status = self
            .world
            .condition("tools", conditions::TOKEN_ISSUED, "False", reasons::NOT_ALLOWED)
            .await;
        let said = message(&status, conditions::TOKEN_ISSUED);
        assert_eq!(said, message(&status, conditions::SECRETS_RESOLVED));
        said
    }

    async fn label(&self, value: Value) {
        let secrets: Api<Secret> = self.world.api();
        let labels = json!({"metadata": {"labels": {"mcpauth.dev/allow": value}}});
        let patch = Patch::Merge(labels);
        secrets
            .patch("client", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn is_issued(&self) {
        self.world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
    }
}

#[tokio::test]
async fn a_secret_is_used_only_with_its_owners_consent_and_nothing_of_it_is_told_before() {
    let scene = Scene::start(
        "consent",
        &["--require-secret-consent", ANY_ADDRESS],
        "client-secret",
    )
    .await;
    let said = scene.refusal().await;
    assert!(
        said.contains("clientSecretRef")
            && said.contains("kubectl label secret client mcpauth.dev/allow=true"),
        "{said}"
    );
    assert_eq!(oauth::requests(&scene.client).await.len(), 0, "nothing was sent");
    // Only `true` is consent.
    scene.label(json!("false")).await;
    scene.refusal().await;

    scene.label(json!("true")).await;
    scene.is_issued().await;
    let pod = json!({"app.kubernetes.io/name": "litellm"});
    let pod = scene.world.pod("litellm-0", pod).await;
    let mut sidecar = Sidecar::in_pod(&scene.world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;

    // Consent that is taken back ends what it allowed, the token in use too.
    scene.label(Value::Null).await;
    scene.refusal().await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_none())
        .await;
    match credential(&snapshot, "tools") {
        Some(Credential::Unavailable { keep, reason, .. }) => {
            assert_eq!((*keep, reason.as_str()), (false, "NotAllowed"))
        }
        other => panic!("no token, and none to keep: {other:?}"),
    }
}

#[tokio::test]
async fn key_names_of_a_secret_are_listed_only_where_it_may_be_used() {
    let scene = Scene::start("keys", &["--require-secret-consent", ANY_ADDRESS], "no-such-key").await;
    let said = scene.refusal().await;
    assert!(
        !said.contains(OTHER_KEY) && !said.contains("client-secret"),
        "{said}"
    );
    scene.label(json!("true")).await;
    let status = scene
        .world
        .condition(
            "tools",
            conditions::SECRETS_RESOLVED,
            "False",
            reasons::SECRET_KEY_NOT_FOUND,
        )
        .await;
    let said = message(&status, conditions::SECRETS_RESOLVED);
    assert!(said.contains(OTHER_KEY), "with consent they help: {said}");
}

#[tokio::test]
async fn a_client_secret_goes_to_listed_hosts_only_and_never_to_loopback_by_default() {
    for (name, arguments, expected) in [
        (
            "host",
            &["--authorization-server-host=*.example.com", ANY_ADDRESS][..],
            "policy.authorizationServers",
        ),
        (
            "server",
            &["--mcp-server-host=mcp.example.net", ANY_ADDRESS],
            "policy.mcpServers",
        ),
        ("loopback", &[], "policy.addresses"),
    ] {
        let scene = Scene::start(name, arguments, "client-secret").await;
        let said = scene.refusal().await;
        assert!(said.contains(expected), "{name}: {said}");
        assert_eq!(
            oauth::requests(&scene.client).await.len(),
            0,
            "{name}: nothing was sent"
        );
    }
    // The rules let through what they name.
    let arguments = [
        "--authorization-server-host=127.0.0.1",
        "--mcp-server-host=tools.example.com",
        ANY_ADDRESS,
    ];
    Scene::start("listed", &arguments, "client-secret")
        .await
        .is_issued()
        .await;
}
