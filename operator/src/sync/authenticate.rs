//! Authenticates a sidecar: from its ServiceAccount token to its pod, by TokenReview, so that a token of a
//! deleted pod is worth nothing. Any pod of the cluster can send tokens here: what [`look_at`] can tell alone
//! costs the API server nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::Pod;
use mcp_auth_protocol::timeouts::SYNC_SILENCE;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::SyncError;
use super::token_claims::look_at;

/// Keys of the extra user info of a token that is bound to a pod (Kubernetes: "Managing Service Accounts").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// TokenReviews under way at once: sidecars that come all together wait for one another, and not for the API
/// server.
const MAX_REVIEWS: usize = 50;
/// Longest wait for a turn, such as of the last of thousands after a replica has gone: one that is sent away comes back
/// later, and costs another TLS handshake.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the API server's answer.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
const _: () = assert!(
    TURN_TIMEOUT.as_secs() + REVIEW_TIMEOUT.as_secs() < SYNC_SILENCE.as_secs(),
    "the sidecar hears why it is not served"
);
/// How long an answer is used again, by a sidecar that exchanges users' tokens or connects again. Whether the
/// pod is still there is looked at each time.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);
/// Short, since the API server may learn of a new pod a moment after its token was made.
const REFUSED_FOR: Duration = Duration::from_secs(1);
const MAX_REMEMBERED: usize = 20_000;

/// The operator's own ServiceAccount.
#[derive(Clone, Debug)]
pub struct OperatorAccount {
    pub namespace: String,
    pub name: String,
}

/// Asks the API server about tokens, no more often than need be. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Authenticator(Arc<AuthenticatorInner>);

struct AuthenticatorInner {
    client: Client,
    turns: Semaphore,
    remembered: Mutex<HashMap<TokenDigest, Remembered>>,
}

/// SHA-256: what is remembered is of no use to who reads it.
type TokenDigest = [u8; 32];

struct Remembered {
    until: Instant,
    answer: Result<Identity, SyncError>,
}

/// Whose token it is.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Identity {
    pod: Pod,
    /// Name of the ServiceAccount, in the pod's namespace.
    account: String,
}

impl Authenticator {
    pub fn new(client: Client) -> Self {
        Self(Arc::new(AuthenticatorInner {
            client,
            turns: Semaphore::new(MAX_REVIEWS),
            remembered: Mutex::default(),
        }))
    }

    /// The pod that the request's bearer token is bound to.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Pod, SyncError> {
        Ok(self.identify(headers).await?.pod)
    }

    /// The pod of another replica: one of the operator's own namespace and ServiceAccount.
    pub async fn authenticate_replica(
        &self,
        headers: &HeaderMap,
        operator: &OperatorAccount,
    ) -> Result<Pod, SyncError> {
        let Identity { pod, account } = self.identify(headers).await?;
        if (&pod.namespace, &account) != (&operator.namespace, &operator.name) {
            return Err(SyncError::NotAReplica(format!("{}/{account}", pod.namespace)));
        }
        Ok(pod)
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, SyncError> {
        let token = bearer(headers).ok_or(SyncError::NoToken)?;
        let now = Timestamp::now();
        let expires_at = look_at(token, now)?;
        let digest: TokenDigest = Sha256::digest(token).into();
        if let Some(answer) = self.0.remembered(&digest) {
            return answer;
        }
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.0.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(SyncError::ApiServer(
                "too many tokens wait for its answer".to_owned(),
            ));
        };
        // Another request of the same sidecar may have had its turn meanwhile.
        if let Some(answer) = self.0.remembered(&digest) {
            return answer;
        }
        let review = review(&self.0.client, token).boxed();
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, review).await;
        let answer = answer.unwrap_or_else(|_| {
            let seconds = REVIEW_TIMEOUT.as_secs();
            Err(SyncError::ApiServer(format!(
                "it did not review a token within {seconds} s"
            )))
        });
        let life = expires_at.map(|end| end.duration_since(now).unsigned_abs());
        let used_for = match &answer {
            Ok(_) => life.map_or(ACCEPTED_FOR, |life| life.min(ACCEPTED_FOR)),
            Err(SyncError::ApiServer(_)) => return answer,
            Err(_) => REFUSED_FOR,
        };
        self.0.remember(digest, used_for, answer.clone());
        answer
    }
}

impl AuthenticatorInner {
    fn remembered(&self, digest: &TokenDigest) -> Option<Result<Identity, SyncError>> {
        let remembered = self.remembered.lock();
        let answer = remembered.get(digest)?;
        (answer.until > Instant::now()).then(|| answer.answer.clone())
    }

    fn remember(&self, digest: TokenDigest, used_for: Duration, answer: Result<Identity, SyncError>) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, answer| answer.until > now);
        }
        // More than there is room for are asked about each time.
        if remembered.len() < MAX_REMEMBERED {
            let until = now + used_for;
            remembered.insert(digest, Remembered { until, answer });
        }
    }
}

async fn review(client: &Client, token: &str) -> Result<Identity, SyncError> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    };
    let reviews = Api::<TokenReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
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

fn identify(review: TokenReviewStatus, token: &str) -> Result<Identity, SyncError> {
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
    let account = account.and_then(|account| account.split_once(':'));
    let extra = user.extra.unwrap_or_default();
    let only = |key: &str| {
        extra
            .get(key)
            .filter(|values| values.len() == 1)
            .map(|values| values[0].clone())
    };
    match (account, only(POD_NAME), only(POD_UID)) {
        (Some((namespace, account)), Some(name), Some(uid)) => Ok(Identity {
            pod: Pod {
                namespace: namespace.to_owned(),
                name,
                uid,
            },
            account: account.to_owned(),
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::super::token_claims::unsigned;
    use super::*;

    /// An API server that counts its reviews, all and at once, and takes every token whose pod is not `stranger`.
    #[derive(Clone, Default)]
    struct Reviews {
        all: Arc<AtomicUsize>,
        under_way: Arc<AtomicUsize>,
        most_at_once: Arc<AtomicUsize>,
    }

    impl Reviews {
        fn authenticator(&self) -> Authenticator {
            let reviews = self.clone();
            let answer = move |Json(review): Json<TokenReview>| {
                let reviews = reviews.clone();
                async move { Json(reviews.answer(&review).await) }
            };
            let path = "/apis/authentication.k8s.io/v1/tokenreviews";
            let router = Router::new().route(path, post(answer));
            Authenticator::new(Client::new(router, "default"))
        }

        async fn answer(&self, review: &TokenReview) -> Value {
            self.all.fetch_add(1, Ordering::SeqCst);
            let at_once = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            let is_stranger = review.spec.token == Some(token("stranger"));
            json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
                "status": {
                    "authenticated": !is_stranger,
                    "audiences": [AUDIENCE],
                    "user": {
                        "username": "system:serviceaccount:apps:default",
                        "extra": {(POD_NAME): ["litellm-0"], (POD_UID): ["u1"]},
                    },
                },
            })
        }

        fn count(&self) -> usize {
            self.all.load(Ordering::SeqCst)
        }
    }

    fn token(uid: &str) -> String {
        unsigned(&json!({"aud": [AUDIENCE], "kubernetes.io": {"pod": {"name": "litellm-0", "uid": uid}}}))
    }

    fn headers(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn junk_tokens_cost_the_api_server_nothing() {
        let reviews = Reviews::default();
        let authenticator = reviews.authenticator();
        for number in 0..1_000 {
            let junk = match number % 3 {
                0 => format!("junk-{number}"),
                1 => unsigned(&json!({"aud": ["elsewhere"], "number": number})),
                _ => unsigned(&json!({"aud": [AUDIENCE], "exp": number})),
            };
            assert!(authenticator.authenticate(&headers(&junk)).await.is_err());
        }
        assert_eq!(reviews.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_reviewed_once_a_minute_and_one_that_is_refused_once_a_second() {
        let reviews = Reviews::default();
        let authenticator = reviews.authenticator();
        for _ in 0..100 {
            let pod = authenticator.authenticate(&headers(&token("u1"))).await.unwrap();
            assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("litellm-0", "u1"));
        }
        assert_eq!(reviews.count(), 1);
        tokio::time::sleep(ACCEPTED_FOR).await;
        authenticator.authenticate(&headers(&token("u1"))).await.unwrap();
        assert_eq!(reviews.count(), 2);
        for _ in 0..100 {
            let refused = authenticator.authenticate(&headers(&token("stranger"))).await;
            assert_eq!(refused.unwrap_err().reason(), "InvalidToken");
        }
        assert_eq!(reviews.count(), 3);
        tokio::time::sleep(REFUSED_FOR).await;
        let refused = authenticator.authenticate(&headers(&token("stranger"))).await;
        assert_eq!(refused.unwrap_err().reason(), "InvalidToken");
        assert_eq!(reviews.count(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn many_sidecars_that_come_together_wait_for_one_another() {
        let reviews = Reviews::default();
        let authenticator = reviews.authenticator();
        let authenticate = |number: usize| {
            let authenticator = authenticator.clone();
            async move {
                authenticator
                    .authenticate(&headers(&token(&format!("u{number}"))))
                    .await
            }
        };
        let answers = futures::future::join_all((0..1_000).map(authenticate)).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(reviews.count(), 1_000);
        assert!(reviews.most_at_once.load(Ordering::SeqCst) <= MAX_REVIEWS);
    }

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
        .unwrap()
        .pod;
        assert_eq!(
            pod,
            Pod {
                namespace: "apps".into(),
                name: "litellm-0".into(),
                uid: "u1".into()
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_is_a_pod_of_the_operators_own_account_and_namespace() {
        let authenticator = Reviews::default().authenticator();
        for (namespace, name, is_replica) in [
            ("apps", "default", true),
            ("apps", "mcp-auth-operator", false),
            ("mcp-auth-system", "default", false),
        ] {
            let operator = OperatorAccount {
                namespace: namespace.into(),
                name: name.into(),
            };
            let headers = headers(&token("u1"));
            let answer = authenticator.authenticate_replica(&headers, &operator).await;
            match is_replica {
                true => assert_eq!(answer.unwrap().name, "litellm-0"),
                false => assert_eq!(answer.unwrap_err().reason(), "NotAReplica"),
            }
        }
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
