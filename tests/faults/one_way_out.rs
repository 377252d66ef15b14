//! Operator and sidecar in a network namespace that leads nowhere but to an egress proxy, and to the API server, which
//! in a cluster is inside too. The authorization server and the MCP server are outside, and so is the proxy, tinyproxy.

mod namespace;
mod outside;

use std::path::PathBuf;

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::reachability::Reachability;
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Replica};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar_process::{Endpoint, SidecarProcess};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

use crate::calls::call;
use crate::service::Service;
use namespace::with_one_way_out;
use outside::Outside;

const USER: &str = "operator";

struct Inside {
    world: World,
    outside: Outside,
    folder: PathBuf,
    _service: Service,
    _operator: Replica,
}

impl Inside {
    /// `variables` are of the operator's environment.
    async fn start(outside: Outside, variables: &[(&str, &str)]) -> Self {
        let name = outside.client.clone();
        let world = World::new(&name, false).await;
        world.trust().await;
        world
            .secret("client", "client-secret", &outside.client_secret)
            .await;
        let folder = PathBuf::from(setting("MCPAUTH_TEST_WORK")).join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let operator = Operator {
            namespace: setting("MCPAUTH_TEST_OPERATOR_NAMESPACE"),
            watched_namespace: name.clone(),
            lease: name,
            certificate_secret: "mcp-auth-operator-tls".into(),
            url: Some(setting("MCPAUTH_TEST_OPERATOR")),
            program: None,
            arguments: vec![ANY_ADDRESS.into()],
        };
        let log = folder.join("operator.log");
        let operator = operator
            .start_with("operator-0", None, Some(&log), |command| {
                command
                    .args(["--webhook-configuration", "of-a-test-that-has-none"])
                    .env_remove("NO_PROXY")
                    .env_remove("no_proxy")
                    .envs(variables.iter().copied());
            })
            .await;
        operator.until_leads().await;
        let service = Service::start().await;
        service.lead_to([operator.address.clone()]).await;
        Self {
            world,
            outside,
            folder,
            _service: service,
            _operator: operator,
        }
    }

    /// A resource for the server outside, with more in its spec.
    fn resource(&self, name: &str, more: Value) -> Value {
        let authentication = json!({
            "method": "ClientSecretBasic",
            "clientSecretRef": {"name": "client", "key": "client-secret"},
        });
        let oauth2 = Server::OidcProvider.oauth2(&self.outside.client, authentication);
        let mut resource = resource(name, name, oauth2);
        let bundle = json!({"configMapKeyRef": {"name": "authority", "key": "ca.crt"}});
        let server = json!({"url": self.outside.mcp_url, "tls": {"caBundle": bundle}});
        merge(&mut resource["spec"], json!({"server": server}));
        merge(&mut resource["spec"], more);
        resource
    }

    fn proxied(&self, name: &str, more: Value) -> Value {
        let mut proxy = json!({
            "url": self.outside.proxy_url,
            "usedBy": "OperatorAndSidecars",
            "credentialsRef": {"name": "proxy"},
        });
        merge(&mut proxy, more);
        self.resource(name, json!({"egressProxy": proxy}))
    }

    async fn until_issued(&self, name: &str) {
        let (type_, reason) = (conditions::TOKEN_ISSUED, reasons::ISSUED);
        self.world.condition(name, type_, "True", reason).await;
    }

    /// What is said of a resource that nothing leads to the authorization server of.
    async fn cut_off(&self, name: &str) -> String {
        let (type_, reason) = (conditions::TOKEN_ISSUED, reasons::DISCOVERY_FAILED);
        let status = self.world.condition(name, type_, "False", reason).await;
        message(&status, type_)
    }

    async fn until_answered(&self, endpoint: &Endpoint) {
        let client = reqwest::Client::new();
        let asked = async || call(&client, endpoint).await;
        let answered = until("a call to be answered", asked, Result::is_ok).await;
        answered.unwrap();
    }
}

#[tokio::test]
async fn a_proxy_that_is_the_only_way_out_leads_to_the_authorization_server_and_to_the_mcp_server() {
    let name = "one_way_out::a_proxy_that_is_the_only_way_out_leads_to_the_authorization_server_and_to_the_mcp_server";
    with_one_way_out(name, "one-way-out", async |outside| {
        let inside = Inside::start(outside, &[]).await;
        let (world, outside) = (&inside.world, &inside.outside);
        world.basic_auth("proxy", USER, "wr0ng-pr0xy-password").await;
        world.apply(&inside.proxied("tools", json!({}))).await.unwrap();
        let told = inside.cut_off("tools").await;
        assert!(told.contains("the proxy on the way"), "{told}");

        world.basic_auth("proxy", USER, &outside.proxy_password).await;
        inside.until_issued("tools").await;
        let sidecar = SidecarProcess::start(world, "litellm-0", &inside.folder).await;
        inside.until_answered(&sidecar.endpoint).await;
        for url in [Server::OidcProvider.issuer(), outside.mcp_url.clone()] {
            let tunnels = outside.tunnels_to(&url);
            assert!(tunnels > 0, "{url} was reached, and not by the proxy");
        }
        let log = outside.proxy_log();
        assert!(
            !log.contains(&outside.client_secret),
            "the proxy sees tunnels alone"
        );

        // A password that the proxy refuses from now on.
        world.basic_auth("proxy", USER, "wr0ng-pr0xy-password").await;
        let refused = Reachability::ProxyRefused.reason();
        let status = world
            .condition("tools", conditions::SERVER_REACHABLE, "False", refused)
            .await;
        let told = message(&status, conditions::SERVER_REACHABLE);
        assert!(
            told.contains("it wants other credentials") && told.contains("spec.egressProxy.credentialsRef"),
            "{told}"
        );
        world.basic_auth("proxy", USER, &outside.proxy_password).await;
        inside.until_answered(&sidecar.endpoint).await;

        // What else there is leads nowhere: without the proxy, and with an exception from it.
        for (name, cut_off) in [
            ("direct", inside.resource("direct", json!({}))),
            (
                "excepted",
                inside.proxied("excepted", json!({"noProxy": ["127.0.0.1"]})),
            ),
        ] {
            world.apply(&cut_off).await.unwrap();
            let told = inside.cut_off(name).await;
            assert!(!told.contains("the proxy on the way"), "{name}: {told}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_proxy_of_the_operators_environment_is_the_only_way_out_and_its_exceptions_are_not_reached() {
    let name = "one_way_out::the_proxy_of_the_operators_environment_is_the_only_way_out_and_its_exceptions_are_not_reached";
    with_one_way_out(name, "one-way-out-inherited", async |outside| {
        let with_password = outside.proxy_url_with_password(USER);
        let variables = [("HTTPS_PROXY", with_password.as_str()), ("NO_PROXY", "localhost")];
        let inside = Inside::start(outside, &variables).await;
        let inherited = inside.resource("inherited", json!({}));
        inside.world.apply(&inherited).await.unwrap();
        inside.until_issued("inherited").await;
        assert!(inside.outside.tunnels_to(&Server::OidcProvider.issuer()) > 0);
        // By another name of the same server, which the operator's NO_PROXY has.
        let mut excepted = inside.resource("excepted", json!({}));
        let issuer = Server::OidcProvider.issuer().replace("127.0.0.1", "localhost");
        excepted["spec"]["oauth2"]["issuer"] = issuer.into();
        inside.world.apply(&excepted).await.unwrap();
        let told = inside.cut_off("excepted").await;
        assert!(!told.contains("the proxy on the way"), "{told}");
        // The environment of the operator is not that of sidecars.
        let sidecar =
            SidecarProcess::start_for(&inside.world, "litellm-0", &inside.folder, "inherited").await;
        let error = call(&reqwest::Client::new(), &sidecar.endpoint)
            .await
            .unwrap_err();
        assert!(error.contains("server_unreachable"), "{error}");
        assert_eq!(inside.outside.tunnels_to(&inside.outside.mcp_url), 0);
    })
    .await;
}
