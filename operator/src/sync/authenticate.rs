//! Authenticates a sidecar: from its ServiceAccount token to its pod, by TokenReview, so that a token of a
//! deleted pod is worth nothing. Any pod of the cluster can send tokens here: what [`look_at`] can tell alone, and what
//! [`IssuerKeys`] say is forged, costs the API server nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
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
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::SyncError;
use super::issuer_keys::{IssuerKeys, Signature};
use super::token_claims::look_at;
use crate::api_server::MAX_CALLS;
use crate::connection_bounds::Place;

/// Keys of the extra user info of a token that is bound to a pod (Kubernetes: "Managing Service Accounts").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// TokenReviews under way at once: sidecars that come all together wait for one another, and not for the API
/// server. Half of what may be under way, so that statuses and objects find turns beside them.
const MAX_REVIEWS: usize = 24;
const _: () = assert!(MAX_REVIEWS + MAX_REVIEWS_OF_UNKNOWN_KEYS + 16 <= MAX_CALLS);
/// Of tokens that name a key which the cluster is not known to have. Its keys are read anew when one comes; until then genuine ones
/// find a turn, and forged ones take none from the others. Each takes its turn for [`UNKNOWN_KEY_TURN`], so that whoever makes up
/// thousands has the API server asked once a second, and no more than a few wait.
const MAX_REVIEWS_OF_UNKNOWN_KEYS: usize = 2;
const UNKNOWN_KEY_TURN: Duration = Duration::from_secs(2);
const REVIEWS_OF_UNKNOWN_KEYS_QUEUE: usize = 64;
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

const FORGED: &str = "the key of this cluster that it names has not signed it";

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
    keys: IssuerKeys,
    turns: Semaphore,
    turns_of_unknown_keys: Arc<Semaphore>,
    /// Of those that have such a turn or wait for one.
    queue_of_unknown_keys: Semaphore,
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
            keys: IssuerKeys::new(client.clone()),
            client,
            turns: Semaphore::new(MAX_REVIEWS),
            turns_of_unknown_keys: Arc::new(Semaphore::new(MAX_REVIEWS_OF_UNKNOWN_KEYS)),
            queue_of_unknown_keys: Semaphore::new(REVIEWS_OF_UNKNOWN_KEYS_QUEUE),
            remembered: Mutex::default(),
        }))
    }

    /// The pod that the request's bearer token is bound to. The connection that it came by counts as that pod's from now on, and gives
    /// way to others until it is said to be [`Place::entitled`].
    pub async fn authenticate(&self, head: &Parts) -> Result<Pod, SyncError> {
        Ok(self.authenticate_connection(head).await?.pod)
    }

    /// The pod of another replica: one of the operator's own namespace and ServiceAccount.
    pub async fn authenticate_replica(
        &self,
        head: &Parts,
        operator: &OperatorAccount,
    ) -> Result<Pod, SyncError> {
        let Identity { pod, account } = self.authenticate_connection(head).await?;
        if (&pod.namespace, &account) != (&operator.namespace, &operator.name) {
            return Err(SyncError::NotAReplica(format!("{}/{account}", pod.namespace)));
        }
        if let Some(place) = place(head) {
            place.entitled();
        }
        Ok(pod)
    }

    async fn authenticate_connection(&self, head: &Parts) -> Result<Identity, SyncError> {
        let identity = self.identify(&head.headers).await?;
        if let Some(place) = place(head) {
            place.authenticated(&identity.pod.namespace, &identity.pod.uid)?;
        }
        Ok(identity)
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, SyncError> {
        let token = bearer(headers).ok_or(SyncError::NoToken)?;
        let now = Timestamp::now();
        let expires_at = look_at(token, now)?;
        let digest: TokenDigest = Sha256::digest(token).into();
        if let Some(answer) = self.0.remembered(&digest) {
            return answer;
        }
        let turn = match self.0.keys.look_at(token) {
            Signature::Forged => return Err(SyncError::InvalidToken(FORGED.to_owned())),
            Signature::OfUnknownKey => self.0.turn_of_unknown_key().await.map(|()| None),
            Signature::Genuine | Signature::NotLookedAt => self.0.turn().await.map(Some),
        };
        let Some(_turn) = turn else {
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

/// Of the connection that the request came by. Without one there is a test that calls this.
pub fn place(head: &Parts) -> Option<&Arc<Place>> {
    head.extensions.get()
}

impl AuthenticatorInner {
    /// Nothing where there was none in time.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(TURN_TIMEOUT, self.turns.acquire())
            .await
            .ok()?
            .ok()
    }

    /// The same for a token that names an unknown key. The turn ends by itself.
    async fn turn_of_unknown_key(&self) -> Option<()> {
        let _place = self.queue_of_unknown_keys.try_acquire().ok()?;
        let turns = Arc::clone(&self.turns_of_unknown_keys);
        let turn = tokio::time::timeout(TURN_TIMEOUT, turns.acquire_owned())
            .await
            .ok()?
            .ok()?;
        tokio::spawn(async move {
            tokio::time::sleep(UNKNOWN_KEY_TURN).await;
            drop(turn);
        });
        Some(())
    }

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
mod tests;
