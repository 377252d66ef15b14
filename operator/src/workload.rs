//! The Kubernetes identity of a ServiceAccount, as an assertion for authorization servers that trust the cluster
//! (workload identity, RFC 7523). The ServiceAccount is one of the resource's own namespace, so that two namespaces cannot
//! act as each other, and nobody as the operator. Each assertion is a short-lived token, made by TokenRequest for one
//! audience, so that no audience has to be known when the operator is installed. The audience is chosen by a resource's
//! author, within what the administrator lists, and a token that the API server itself accepts would let its receiver
//! act as that ServiceAccount: such tokens are never sent.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use mcp_auth_crds::WorkloadIdentity;
use mcp_auth_credentials::{NotServedError, NotServedReason};
use mcp_auth_oauth::{self as oauth, AssertionFuture, AssertionSource, Assertions};
use secrecy::SecretString;

use crate::api_server::with_deadline;

/// The field that asks for it.
const FIELD: &str = "spec.oauth2.clientAuthentication.workloadIdentity";
/// The shortest life that Kubernetes gives a token: an assertion is used at once.
const LIFE_SECONDS: i64 = 600;

/// Who may act as a ServiceAccount of their namespace, and towards whom. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    client: Client,
    /// Namespaces whose resources may.
    namespaces: Arc<[String]>,
    /// Audiences that tokens are requested for. None: every one.
    audiences: Arc<[String]>,
}

/// Assertions for one resource.
struct Source {
    workload: Workload,
    namespace: String,
    service_account: String,
    /// Instead of the authorization server's own identifier.
    audience: Option<String>,
}

impl Workload {
    pub fn new(
        client: Client,
        namespaces: impl Into<Arc<[String]>>,
        audiences: impl Into<Arc<[String]>>,
    ) -> Self {
        Self {
            client,
            namespaces: namespaces.into(),
            audiences: audiences.into(),
        }
    }

    /// The identity that a resource of this namespace asks for.
    pub fn assertions(
        &self,
        namespace: &str,
        wanted: &WorkloadIdentity,
    ) -> Result<Assertions, NotServedError> {
        if !self.namespaces.iter().any(|allowed| allowed == namespace) {
            let message = format!(
                "{FIELD}: resources of this namespace may not use WorkloadIdentity: administrators of mcp-auth can add it \
                 to workloadIdentity.namespaces"
            );
            return Err(NotServedError::new(NotServedReason::NotAllowed, message));
        }
        let Some(account) = &wanted.service_account_ref else {
            let message = format!(
                "{FIELD}.serviceAccountRef is not set: name a ServiceAccount of this namespace, and let the authorization \
                 server trust it; the operator's own is nobody's to use any more"
            );
            return Err(NotServedError::new(NotServedReason::InvalidSpec, message));
        };
        if let Some(audience) = &wanted.audience {
            self.check_audience(audience).map_err(|problem| {
                NotServedError::new(NotServedReason::NotAllowed, format!("{FIELD}: {problem}"))
            })?;
        }
        Ok(Assertions::From(Arc::new(Source {
            workload: self.clone(),
            namespace: namespace.to_owned(),
            service_account: account.name.clone(),
            audience: wanted.audience.clone(),
        })))
    }

    fn check_audience(&self, audience: &str) -> Result<(), String> {
        if self.audiences.is_empty() || self.audiences.iter().any(|allowed| allowed == audience) {
            return Ok(());
        }
        Err(format!(
            "the audience {audience:?} is not among those that the administrator of mcp-auth allows: set \
             workloadIdentity.audience to one of them, or ask for it to be added to workloadIdentity.audiences of the chart"
        ))
    }

    async fn request(
        &self,
        namespace: &str,
        service_account: &str,
        audience: &str,
    ) -> Result<SecretString, oauth::Error> {
        let failed = |problem: String| oauth::Error::NoAssertion { problem };
        self.check_audience(audience).map_err(failed)?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(LIFE_SECONDS),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer =
            with_deadline(accounts.create_token_request(service_account, &PostParams::default(), &request))
                .await;
        let answer = answer.map_err(|error| failed(refusal_message(&error, service_account)))?;
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
        Box::pin(
            self.workload
                .request(&self.namespace, &self.service_account, audience),
        )
    }
}

/// Why the API server made no token. The request held no secret, and an error holds no token.
fn refusal_message(error: &Error, service_account: &str) -> String {
    match error {
        Error::Api(status) if status.code == 403 => format!(
            "the operator may not request tokens for the ServiceAccount {service_account}: allow it to create \
             serviceaccounts/token in this namespace, as workloadIdentity.namespaces and \
             workloadIdentity.serviceAccountNames of the chart do"
        ),
        Error::Api(status) if status.code == 404 => format!(
            "there is no ServiceAccount {service_account} in this namespace: create it, or correct \
             workloadIdentity.serviceAccountRef"
        ),
        other => format!("the API server made no token for the ServiceAccount {service_account}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use serde_json::json;

    use super::*;

    fn reason(namespace: &str, wanted: serde_json::Value) -> Result<(), String> {
        let client = Client::new(Router::new(), "default");
        let workload = Workload::new(client, vec!["llm".to_owned()], vec!["https://idp".to_owned()]);
        let wanted = serde_json::from_value(wanted).unwrap();
        let assertions = workload.assertions(namespace, &wanted);
        assertions
            .map(|_| ())
            .map_err(|error| format!("{}: {}", error.reason(), error.message()))
    }

    #[tokio::test]
    async fn only_listed_namespaces_and_audiences_and_a_named_account_make_an_identity() {
        let account = json!({"name": "litellm"});
        assert_eq!(reason("llm", json!({"serviceAccountRef": account})), Ok(()));
        for (namespace, wanted, expected) in [
            (
                "other",
                json!({"serviceAccountRef": account}),
                "NotAllowed: spec.oauth2",
            ),
            ("llm", json!({}), "InvalidSpec: spec.oauth2"),
            (
                "llm",
                json!({"serviceAccountRef": account, "audience": "https://sts"}),
                "workloadIdentity.audiences",
            ),
        ] {
            let said = reason(namespace, wanted).unwrap_err();
            assert!(
                said.contains(expected) && said.contains("workloadIdentity"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_told_with_the_way_out() {
        let refused = |code| {
            let status = kube::core::Status::failure("no", "No").with_code(code);
            refusal_message(&Error::Api(Box::new(status)), "litellm")
        };
        assert!(refused(403).contains("serviceaccounts/token"));
        assert!(refused(404).contains("no ServiceAccount litellm"));
        assert!(refused(500).contains("litellm"));
    }
}
