//! Google's workload identity federation: a ServiceAccount token of the real API server, exchanged at a stand-in of the Security
//! Token Service that judges it as Google documents, and the access token as it arrives at an MCP server.
//! <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>,
//! <https://cloud.google.com/iam/docs/troubleshooting-workload-identity-federation>

use std::sync::{Arc, Mutex};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::recorder::Recorder;
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::sidecar_process::SidecarProcess;
use mcp_auth_tests::web::{Form, Web};
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, seen};
use serde_json::{Value, json};

/// One of those that may use workload identity.
const NAMESPACE: &str = "workload-google";
const POOL: &str =
    "iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/company/providers";
const ACCESS_TOKEN: &str = "ya29.d.b0Aaekm1K7-of-a-federated-workload";

/// What Google says of a request whatever it holds: error code and description.
type Refusal = Option<(&'static str, &'static str)>;

/// The Security Token Service.
#[derive(Clone, Default)]
struct TokenService {
    refusal: Arc<Mutex<Refusal>>,
    /// The last request that brought a token.
    exchanged: Arc<Mutex<Form>>,
}

impl TokenService {
    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = refusal;
    }

    fn answer(&self, form: &Form) -> (&'static str, Value) {
        let parameter = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let refused = |code: &str, words: &str| {
            let body = json!({"error": code, "error_description": words});
            ("400 Bad Request", body)
        };
        let Some(provider) = parameter("audience").strip_prefix("//") else {
            let words = "Invalid value for \"audience\". This value should be the full resource name of the Identity \
                         Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the \
                         list of possible formats.";
            return refused("invalid_request", words);
        };
        if provider != format!("{POOL}/cluster") {
            let words = "The target service indicated by the \"audience\" parameters is invalid. This might either be \
                         because the pool or provider is disabled or deleted or because it doesn't exist.";
            return refused("invalid_target", words);
        }
        let claims = jwt::claims(parameter("subject_token"));
        if !jwt::is_for(&claims, &format!("https://{provider}")) {
            let words = format!(
                "The audience in ID Token [{}] does not match the expected audience https://{provider}.",
                claims["aud"][0]
            );
            return refused("invalid_grant", &words);
        }
        if let Some((code, words)) = *self.refusal.lock().unwrap() {
            return refused(code, words);
        }
        *self.exchanged.lock().unwrap() = form.clone();
        let token = json!({
            "access_token": ACCESS_TOKEN, "expires_in": 3599, "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        });
        ("200 OK", token)
    }
}

/// What the API server itself says of a token.
async fn review(world: &World, token: &str, audience: &str) -> TokenReviewStatus {
    let review = json!({"metadata": {}, "spec": {"token": token, "audiences": [audience]}});
    let review: TokenReview = serde_json::from_value(review).unwrap();
    let reviews = Api::<TokenReview>::all(world.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap()
}

#[tokio::test]
async fn a_workload_s_own_token_becomes_one_of_google_s_at_the_mcp_server_and_each_refusal_says_what_is_wrong()
 {
    let world = World::in_namespace(NAMESPACE).await;
    for account in ["default", "litellm"] {
        let account = json!({"metadata": {"name": account}});
        world.create::<ServiceAccount>(account).await.unwrap();
    }
    seen::note(ACCESS_TOKEN);
    let (google, service) = (Web::start().await, TokenService::default());
    let answering = service.clone();
    google.by_request("/v1/token", move |request| answering.answer(&request.form));
    let server = Recorder::start().await;
    let mut tools = resource(
        "tools",
        "tools",
        json!({"oauth2": {
            "provider": "Google",
            "tokenUrl": format!("{}/v1/token", google.url),
            "allowInsecureHttp": true,
            "clientAuthentication": {
                "method": "WorkloadIdentity",
                "workloadIdentity": {"serviceAccountRef": {"name": "litellm"}, "assertion": "TokenExchange"},
            },
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        }}),
    );
    merge(
        &mut tools["spec"]["server"],
        json!({"url": server.url, "allowInsecureHttp": true}),
    );

    let right = format!("//{POOL}/cluster");
    let refusals: [(Value, Refusal, &str, &str); 7] = [
        (
            json!({"audience": format!("//{POOL}/none")}),
            None,
            "invalid_target",
            "workloadIdentityPools/POOL/providers/PROVIDER",
        ),
        (
            json!({"audience": format!("https://{POOL}/cluster")}),
            None,
            "invalid_request",
            "and nothing before or behind it",
        ),
        (
            json!({"audience": right, "clientAuthentication": {"workloadIdentity": {"audience": "https://else.example.com"}}}),
            None,
            "invalid_grant",
            "state one of its Allowed audiences in workloadIdentity.audience",
        ),
        (
            json!({"requestTimeout": "6s", "clientAuthentication": {"workloadIdentity": {"audience": format!("https:{right}")}}}),
            Some((
                "invalid_grant",
                "ID Token issued at 1764500000 is stale to sign-in.",
            )),
            "invalid_grant",
            "set the clocks of the API server and the operator right",
        ),
        (
            json!({"requestTimeout": "7s"}),
            Some((
                "invalid_grant",
                "Error connecting to the given credential's issuer.",
            )),
            "invalid_grant",
            "upload its key set to the pool's provider",
        ),
        (
            json!({"requestTimeout": "8s"}),
            Some((
                "invalid_grant",
                "The issuer in ID Token https://kubernetes.default.svc does not match the expected ones: \
                 https://cluster.company.com.",
            )),
            "invalid_grant",
            "the issuer of the pool's provider has to be the cluster's",
        ),
        (
            json!({"requestTimeout": "9s"}),
            Some((
                "unauthorized_client",
                "The given credential is rejected by the attribute condition.",
            )),
            "unauthorized_client",
            "compare it with system:serviceaccount:NAMESPACE:NAME",
        ),
    ];
    for (change, refusal, code, way_out) in refusals {
        service.refuse(refusal);
        merge(&mut tools["spec"]["oauth2"], change);
        let applied = world.apply(&tools).await.unwrap();
        let generation = applied.metadata.generation;
        let of_this_version = |status: &mcp_auth_crds::McpServerAuthStatus| {
            let mut issued = status.conditions.iter();
            let issued = issued.find(|condition| condition.type_ == conditions::TOKEN_ISSUED);
            issued.is_some_and(|condition| {
                condition.observed_generation == generation && condition.reason == reasons::REQUEST_FAILED
            })
        };
        let status = mcp_auth_tests::wait::until(
            way_out,
            async || world.status("tools").await,
            |status| of_this_version(status) && message(status, conditions::TOKEN_ISSUED).contains(way_out),
        )
        .await;
        assert_eq!(status.token.unwrap().last_error.unwrap().reason, code);
    }

    // As the page has it: without an audience of the ServiceAccount token of its own.
    service.refuse(None);
    merge(&mut tools["spec"]["oauth2"], json!({"audience": right}));
    let workload = tools.pointer_mut("/spec/oauth2/clientAuthentication/workloadIdentity");
    workload.unwrap().as_object_mut().unwrap().remove("audience");
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;

    let form = service.exchanged.lock().unwrap().clone();
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        ("audience", &*right),
    ] {
        assert_eq!(form[name], value);
    }
    for secret in ["client_id", "client_secret", "client_assertion", "resource"] {
        assert!(!form.contains_key(secret), "{secret}");
    }
    let reviewed = review(&world, &form["subject_token"], &format!("https:{right}")).await;
    assert_eq!(
        reviewed.authenticated,
        Some(true),
        "the API server issued it: {reviewed:?}"
    );
    let user = reviewed.user.unwrap().username.unwrap();
    assert_eq!(user, format!("system:serviceaccount:{NAMESPACE}:litellm"));

    let folder = tempfile::tempdir().unwrap();
    let sidecar = SidecarProcess::start(&world, "litellm-0", folder.path()).await;
    let endpoint = &sidecar.endpoint;
    let call = reqwest::Client::new()
        .post(&endpoint.url)
        .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}));
    let headers = endpoint.static_headers.iter();
    let call = headers.fold(call, |call, (name, value)| call.header(name, value));
    assert!(call.send().await.unwrap().status().is_success());
    let arrived = server.last("Bearer").await;
    assert_eq!(arrived.token("Bearer").as_deref(), Some(ACCESS_TOKEN));
}
