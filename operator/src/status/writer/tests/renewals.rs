//! What is written for tokens that are renewed, with token sources and a token endpoint on loopback.

use std::collections::{BTreeMap, HashMap};

use mcp_auth_crds::WorkloadIdentity;
use mcp_auth_credentials::references::Lookup;
use mcp_auth_credentials::{AdministratorPolicy, Inputs, TokenRefreshRequest, TokenSources, desired};
use mcp_auth_protocol::sync::{Credential, RejectionCause};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;

const RESOURCES: usize = 10;

#[derive(Clone)]
struct TokenEndpoint {
    /// By number of the resource.
    issued: Arc<Mutex<HashMap<usize, u64>>>,
    /// Answers that may be given.
    answers: Arc<Semaphore>,
}

async fn token(State(endpoint): State<TokenEndpoint>, Path(number): Path<usize>) -> Response {
    endpoint.answers.acquire().await.unwrap().forget();
    let count = {
        let mut issued = endpoint.issued.lock();
        let count = issued.entry(number).or_default();
        *count += 1;
        *count
    };
    let token = json!({
        "access_token": format!("token-{number}-{count}"), "token_type": "Bearer", "expires_in": 3600,
    });
    ([("content-type", "application/json")], token.to_string()).into_response()
}

impl TokenEndpoint {
    async fn start() -> (Self, String) {
        let endpoint = Self {
            issued: Arc::default(),
            answers: Arc::new(Semaphore::new(RESOURCES)),
        };
        let router = Router::new()
            .route("/token/{number}", post(token))
            .with_state(endpoint.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (endpoint, url)
    }
}

fn oauth2_resource(number: usize, token_url: &str) -> McpServerAuth {
    let name = format!("tools-{number}");
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "apps", "uid": name, "generation": 1},
        "spec": {
            "server": {"name": name, "url": format!("https://{name}.example.com/mcp")},
            "oauth2": {
                "tokenUrl": format!("{token_url}/{number}"),
                "allowInsecureHttp": true,
                "clientId": format!("litellm-{number}"),
                "clientAuthentication": {
                    "method": "ClientSecretBasic",
                    "clientSecretRef": {"name": "oauth", "key": "client-secret"},
                },
            },
        },
    }))
    .unwrap()
}

fn desire(sources: &TokenSources, resource: &McpServerAuth) {
    let secret = BTreeMap::from([("client-secret".to_owned(), b"s3cret".to_vec().into())]);
    let found = Lookup::Found(Arc::new(secret));
    let references = needed(&resource.spec).into_iter();
    let references: Vec<_> = references.map(|reference| (reference, found.clone())).collect();
    let inputs = Inputs {
        references: &references,
        workload: |_: &WorkloadIdentity| None,
        managed_key: None,
        known_issuer: None,
        policy: &AdministratorPolicy::default(),
        egress_proxy: None,
    };
    sources.apply(resource, desired(&resource.spec, &inputs));
}

impl World {
    fn token_id(&self, resource: &McpServerAuth) -> Option<String> {
        match self.credentials.get(resource).credential {
            Credential::Bearer { id, .. } => Some(id),
            Credential::Unavailable { .. } => None,
        }
    }

    async fn token_other_than(&self, previous: Option<&str>, resource: &McpServerAuth) {
        let issued = async {
            while self.token_id(resource).as_deref() == previous {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let issued = tokio::time::timeout(DEADLINE, issued).await;
        assert!(issued.is_ok(), "no other token after {DEADLINE:?}");
    }

    /// While a request is under way something else is expected of the day.
    async fn other_forecast_than(&self, previous: i64, resource: &McpServerAuth) {
        let other = async {
            loop {
                let usage = self.credentials.get(resource).issuance.token.usage.unwrap();
                if i64::try_from(usage.today.forecast).unwrap() != previous {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let other = tokio::time::timeout(DEADLINE, other).await;
        assert!(other.is_ok(), "the same is expected after {DEADLINE:?}");
    }
}

#[tokio::test]
async fn ten_renewals_are_ten_writes_whatever_is_expected_of_the_day_while_they_are_under_way() {
    let mut world = World::new().await;
    let (endpoint, url) = TokenEndpoint::start().await;
    let sources = TokenSources::new(Clock::system(), Metrics::default(), world.credentials.clone());
    let mut resources = Vec::new();
    for number in 0..RESOURCES {
        let resource = oauth2_resource(number, &url);
        desire(&sources, &resource);
        world.token_other_than(None, &resource).await;
        let first = world.write(&resource).await.0.expect("nothing was written yet");
        resources.push(watched(&resource, &first));
    }

    let mut writes = 0;
    for resource in &mut resources {
        let previous = world.token_id(resource);
        sources.request_refresh(&TokenRefreshRequest {
            resource: ResourceRef::from(&*resource),
            token: previous.clone().unwrap(),
            why: RejectionCause::Unauthorized,
        });
        let forecast = |status: &McpServerAuthStatus| {
            let usage = status.token.as_ref().unwrap().usage.as_ref().unwrap();
            (usage.issued, usage.forecast)
        };
        let before = resource.status.clone().unwrap();
        world.other_forecast_than(forecast(&before).1, resource).await;
        writes += usize::from(world.write(resource).await.0.is_some());
        endpoint.answers.add_permits(1);
        world.token_other_than(previous.as_deref(), resource).await;
        let written = world.write(resource).await.0.expect("there is another token");
        writes += 1;
        assert_eq!((forecast(&before).0, forecast(&written).0), (1, 2));
        let watched = watched(resource, &written);
        // As when a sidecar reports what it has, or a pod changes.
        writes += usize::from(world.write(&watched).await.0.is_some());
        *resource = watched;
    }
    assert_eq!(writes, RESOURCES);
}
