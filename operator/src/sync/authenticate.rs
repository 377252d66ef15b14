//! Authenticates a sidecar: from its ServiceAccount token to its pod, by TokenReview, so that a token of a
//! deleted pod is worth nothing.

use axum::http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::Pod;

use super::SyncError;
use crate::api_server::with_deadline;

/// Keys of the extra user info of a token that is bound to a pod (Kubernetes: "Managing Service Accounts").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The pod that the request's bearer token is bound to.
pub async fn authenticate(client: &Client, headers: &HeaderMap) -> Result<Pod, SyncError> {
    let token = bearer(headers).ok_or(SyncError::NoToken)?;
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    };
    let reviews = Api::<TokenReview>::all(client.clone());
    let answer = with_deadline(reviews.create(&PostParams::default(), &review)).await;
    let answer = answer.map_err(|error| SyncError::ApiServer(without_token(&error.to_string(), token)))?;
    identify(answer.status.unwrap_or_default(), token)
}

/// What the pod itself claims must be what its token says: a mix-up is an error in the configuration.
pub fn agree(claimed: &Pod, bound: &Pod) -> Result<(), SyncError> {
    if claimed == bound {
        return Ok(());
    }
    // The claimed names may be any text: no name of Kubernetes is longer.
    let short = |text: &str| text.chars().take(253).collect::<String>();
    let show = |pod: &Pod| {
        let (namespace, name, uid) = (short(&pod.namespace), short(&pod.name), short(&pod.uid));
        format!("{namespace}/{name} (uid {uid})")
    };
    Err(SyncError::OtherPod {
        claimed: show(claimed),
        bound: show(bound),
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|token| !token.is_empty())
}

fn identify(review: TokenReviewStatus, token: &str) -> Result<Pod, SyncError> {
    if review.authenticated != Some(true) {
        let error = without_token(review.error.as_deref().unwrap_or("it is not valid"), token);
        // The API server reports a token for other audiences as an error that lists both.
        return Err(match error.contains("audience") {
            true => SyncError::WrongAudience(AUDIENCE),
            false => SyncError::InvalidToken(error),
        });
    }
    // An authenticator that knows no audiences leaves the list empty: then nothing says that the token is for
    // us.
    if !review
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE)
    {
        return Err(SyncError::WrongAudience(AUDIENCE));
    }
    let user = review.user.unwrap_or_default();
    let account = user
        .username
        .as_deref()
        .and_then(|name| name.strip_prefix(SERVICE_ACCOUNT));
    let namespace = account
        .and_then(|account| account.split_once(':'))
        .map(|(namespace, _)| namespace);
    let extra = user.extra.unwrap_or_default();
    let only = |key: &str| {
        extra
            .get(key)
            .filter(|values| values.len() == 1)
            .map(|values| values[0].clone())
    };
    match (namespace, only(POD_NAME), only(POD_UID)) {
        (Some(namespace), Some(name), Some(uid)) => Ok(Pod {
            namespace: namespace.to_owned(),
            name,
            uid,
        }),
        _ => Err(SyncError::NotBoundToPod),
    }
}

/// No authenticator is known to repeat the token in its error; should one, it ends here.
fn without_token(error: &str, token: &str) -> String {
    error.replace(token, "[token]")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn review(username: &str, audiences: &[&str], extra: &[(&str, &str)]) -> TokenReviewStatus {
        let extra: BTreeMap<_, _> = extra.iter().map(|(key, value)| (*key, [*value])).collect();
        serde_json::from_value(serde_json::json!({
            "authenticated": true,
            "audiences": audiences,
            "user": {
                "username": username,
                "extra": extra,
            },
        }))
        .unwrap()
    }

    const BOUND: &[(&str, &str)] = &[(POD_NAME, "litellm-0"), (POD_UID, "u1")];

    #[test]
    fn a_pod_bound_token_tells_its_pod() {
        let pod = identify(
            review("system:serviceaccount:apps:default", &[AUDIENCE], BOUND),
            "t",
        )
        .unwrap();
        assert_eq!(
            pod,
            Pod {
                namespace: "apps".into(),
                name: "litellm-0".into(),
                uid: "u1".into()
            }
        );
    }

    #[test]
    fn a_token_that_is_not_bound_to_a_pod_is_refused() {
        let unbound = review("system:serviceaccount:apps:default", &[AUDIENCE], &[]);
        assert_eq!(identify(unbound, "t"), Err(SyncError::NotBoundToPod));
        let person = review("alice", &[AUDIENCE], BOUND);
        assert_eq!(identify(person, "t"), Err(SyncError::NotBoundToPod));
    }

    #[test]
    fn a_token_without_our_audience_is_refused_even_if_authenticated() {
        let other = review("system:serviceaccount:apps:default", &[], BOUND);
        assert_eq!(identify(other, "t"), Err(SyncError::WrongAudience(AUDIENCE)));
    }

    #[test]
    fn an_error_that_repeats_the_token_loses_it() {
        let review = TokenReviewStatus {
            error: Some("bad: s3cret".into()),
            ..TokenReviewStatus::default()
        };
        assert_eq!(
            identify(review, "s3cret"),
            Err(SyncError::InvalidToken("bad: [token]".into()))
        );
    }

    #[test]
    fn a_pod_may_not_speak_for_another() {
        let pod = |uid: &str| Pod {
            namespace: "apps".into(),
            name: "litellm-0".into(),
            uid: uid.into(),
        };
        assert!(agree(&pod("u1"), &pod("u1")).is_ok());
        assert_eq!(agree(&pod("u2"), &pod("u1")).unwrap_err().reason(), "OtherPod");
    }

    #[test]
    fn the_bearer_scheme_is_read_in_any_case() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "bearer abc".parse().unwrap());
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
