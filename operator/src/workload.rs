//! The operator's own Kubernetes identity, as an assertion for authorization servers that trust the cluster
//! (workload identity, RFC 7523). Each assertion is a short-lived ServiceAccount token, made by TokenRequest
//! for one audience, so that no audience has to be known when the operator is installed. The audience is
//! chosen by a resource's author, and a token that the API server itself accepts would let its receiver act
//! as the operator: such tokens are never sent.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use mcp_auth_oauth::{self as oauth, AssertionFuture, AssertionSource, Assertions};
use secrecy::SecretString;

use crate::api_server::with_deadline;

/// The shortest life that Kubernetes gives a token: an assertion is used at once.
const LIFE_SECONDS: i64 = 600;

/// Whose identity it is, and who may act as it. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    client: Client,
    namespace: String,
    service_account: String,
    /// Namespaces whose resources may act as the operator.
    allowed_namespaces: Arc<[String]>,
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
        allowed_namespaces: impl Into<Arc<[String]>>,
    ) -> Self {
        Self {
            client,
            namespace,
            service_account,
            allowed_namespaces: allowed_namespaces.into(),
        }
    }

    /// The operator's identity for a resource of this namespace; nothing where it may not act as the
    /// operator: an author of resources there could else have tokens that were meant for the operator.
    pub fn assertions(&self, namespace: &str, audience: Option<String>) -> Option<Assertions> {
        let is_allowed = self.allowed_namespaces.iter().any(|allowed| allowed == namespace);
        is_allowed.then(|| {
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
        let answer = with_deadline(accounts.create_token_request(
            &self.service_account,
            &PostParams::default(),
            &request,
        ))
        .await;
        let failed = |problem: String| oauth::Error::NoAssertion { problem };
        let answer = answer.map_err(|error| failed(refusal_message(&error, &self.service_account)))?;
        let token = answer.status.map(|status| status.token);
        let token = token.ok_or_else(|| failed("the API server answered without a token".into()))?;
        if self.is_taken_by_the_api_server(&token).await.map_err(|error| {
            failed(format!(
                "the API server could not be asked about the audience {audience:?}: {error}"
            ))
        })? {
            return Err(failed(format!(
                "the audience {audience:?} is the API server's own, and a token for it is not let out: set \
                 workloadIdentity.audience to what the authorization server expects"
            )));
        }
        Ok(token.into())
    }

    /// Asked of the API server: it alone knows all its audiences.
    async fn is_taken_by_the_api_server(&self, token: &str) -> kube::Result<bool> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let answer = with_deadline(reviews.create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        Ok(status.authenticated.unwrap_or(false))
    }
}

impl AssertionSource for Source {
    fn assertion<'a>(&'a self, audience: &'a str) -> AssertionFuture<'a> {
        let audience = self.audience.as_deref().unwrap_or(audience);
        Box::pin(self.workload.request(audience))
    }
}

/// Why the API server made no token. The request held no secret, and an error holds no token.
fn refusal_message(error: &Error, service_account: &str) -> String {
    match error {
        Error::Api(status) if status.code == 403 => format!(
            "the operator may not request tokens for its ServiceAccount {service_account}: set \
             workloadIdentity.namespaces in the chart, or allow it to create serviceaccounts/token"
        ),
        other => format!("the API server made no token for ServiceAccount {service_account}: {other}"),
    }
}
