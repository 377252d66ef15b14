//! The operator's own Kubernetes identity, as an assertion for authorization servers that trust the cluster
//! (workload identity, RFC 7523). Each assertion is a short-lived ServiceAccount token, made by TokenRequest for one
//! audience: no audience has to be known when the operator is installed, and none is good for the API server.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use mcp_auth_oauth::{self as oauth, Asserting, AssertionSource, Assertions};
use secrecy::SecretString;

use crate::api_server::within;

/// The shortest life that Kubernetes gives a token: an assertion is used at once.
const LIFE_SECONDS: i64 = 600;

/// Whose identity it is, and who may act as it. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    client: Client,
    namespace: String,
    service_account: String,
    /// Namespaces whose resources may act as the operator.
    allowed: Arc<[String]>,
}

/// Assertions for one resource.
struct Source {
    workload: Workload,
    /// Instead of the authorization server's own identifier.
    audience: Option<String>,
}

impl Workload {
    pub fn new(
        client: Client,
        namespace: String,
        service_account: String,
        allowed: impl Into<Arc<[String]>>,
    ) -> Self {
        Self {
            client,
            namespace,
            service_account,
            allowed: allowed.into(),
        }
    }

    /// The operator's identity for a resource of this namespace; nothing where it may not act as the operator:
    /// whoever can write a resource there could else have tokens that were meant for the operator.
    pub fn assertions(&self, namespace: &str, audience: Option<String>) -> Option<Assertions> {
        let allowed = self.allowed.iter().any(|allowed| allowed == namespace);
        allowed.then(|| {
            Assertions::From(Arc::new(Source {
                workload: self.clone(),
                audience,
            }))
        })
    }

    async fn request(&self, audience: &str) -> Result<SecretString, oauth::Error> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(LIFE_SECONDS),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let answer =
            within(accounts.create_token_request(&self.service_account, &PostParams::default(), &request))
                .await;
        let failed = |problem: String| oauth::Error::NoAssertion { problem };
        let answer = answer.map_err(|error| failed(refused(&error, &self.service_account)))?;
        let token = answer.status.map(|status| status.token);
        token
            .map(SecretString::from)
            .ok_or_else(|| failed("the API server answered without a token".into()))
    }
}

impl AssertionSource for Source {
    fn assertion<'a>(&'a self, audience: &'a str) -> Asserting<'a> {
        let audience = self.audience.as_deref().unwrap_or(audience);
        Box::pin(self.workload.request(audience))
    }
}

/// What the API server said. It has been sent no secret, and an error holds no token.
fn refused(error: &Error, service_account: &str) -> String {
    match error {
        Error::Api(status) if status.code == 403 => format!(
            "the operator may not request tokens for its ServiceAccount {service_account}: set workloadIdentity.namespaces \
             in the chart, or allow it to create serviceaccounts/token"
        ),
        other => format!("the API server made no token for ServiceAccount {service_account}: {other}"),
    }
}
