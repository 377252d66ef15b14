use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Request;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::super::issuer_keys::tests::{Issuer, key_set, looked_at};
use super::super::token_claims::unsigned;
use super::*;
use crate::connection_bounds::{ConnectionBounds, ConnectionLimits};

/// An API server that counts its reviews, all and at once, and takes every token whose pod is not `stranger`.
#[derive(Clone, Default)]
struct Reviews {
    all: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl Reviews {
    fn authenticator(&self) -> Authenticator {
        self.with_keys(Router::new())
    }

    /// With what the API server answers to the request for its keys.
    fn with_keys(&self, keys: Router) -> Authenticator {
        let reviews = self.clone();
        let answer = move |Json(review): Json<TokenReview>| {
            let reviews = reviews.clone();
            async move { Json(reviews.answer(&review).await) }
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        Authenticator::new(Client::new(keys.route(path, post(answer)), "default"))
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

/// A request with this token.
fn head(token: &str) -> Parts {
    let request = Request::post("/").header(header::AUTHORIZATION, format!("Bearer {token}"));
    request.body(()).unwrap().into_parts().0
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
        assert!(authenticator.authenticate(&head(&junk)).await.is_err());
    }
    assert_eq!(reviews.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_costs_no_review_and_one_of_an_unknown_key_takes_no_other_sidecars_turn() {
    let (cluster, stranger) = (Issuer::new(), Issuer::new());
    let claims =
        |uid: &str| json!({"aud": [AUDIENCE], "kubernetes.io": {"pod": {"name": "litellm-0", "uid": uid}}});
    let reviews = Reviews::default();
    let authenticator = reviews.with_keys(key_set(json!([cluster.jwk("1")])));
    let genuine = cluster.token("1", &claims("u1"));
    assert_eq!(
        looked_at(&authenticator.0.keys, &genuine).await,
        Signature::Genuine
    );
    for number in 0..1_000 {
        let forged = stranger.token("1", &claims(&number.to_string()));
        let refused = authenticator.authenticate(&head(&forged)).await.unwrap_err();
        assert_eq!(refused, SyncError::InvalidToken(FORGED.to_owned()));
    }
    assert_eq!(reviews.count(), 0);
    authenticator.authenticate(&head(&genuine)).await.unwrap();
    assert_eq!(reviews.count(), 1, "what is genuine is still reviewed");
    // Whoever forges may name any key: few at a time are asked about, and no sidecar waits behind them.
    let unknown = |number: usize| {
        let (authenticator, stranger, claims) = (&authenticator, &stranger, &claims);
        async move {
            let token = stranger.token("2", &claims(&format!("s{number}")));
            authenticator.authenticate(&head(&token)).await
        }
    };
    let crowd = futures::future::join_all((0..100).map(unknown));
    let sidecar = async {
        tokio::task::yield_now().await;
        let token = cluster.token("1", &claims("u2"));
        authenticator.authenticate(&head(&token)).await.unwrap();
        reviews.count()
    };
    let (_, counted) = tokio::join!(crowd, sidecar);
    assert!(
        counted <= 2 + 2 * MAX_REVIEWS_OF_UNKNOWN_KEYS,
        "{counted} before the sidecar had its turn"
    );
    assert!(reviews.most_at_once.load(Ordering::SeqCst) <= MAX_REVIEWS_OF_UNKNOWN_KEYS + 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_tokens_a_second_that_name_unknown_keys_cost_the_api_server_one_call_a_second() {
    let (cluster, stranger) = (Issuer::new(), Issuer::new());
    let reviews = Reviews::default();
    let authenticator = reviews.with_keys(key_set(json!([cluster.jwk("1")])));
    let genuine = cluster.token("1", &json!({}));
    assert_eq!(
        looked_at(&authenticator.0.keys, &genuine).await,
        Signature::Genuine
    );
    let mut answers = tokio::task::JoinSet::new();
    for second in 0..10 {
        for number in 0..1_000 {
            let uid = format!("s{second}-{number}");
            let claims = json!({"aud": [AUDIENCE], "kubernetes.io": {"pod": {"name": "a", "uid": uid}}});
            // Not signed: it need not be by a key that nobody knows.
            let token = format!(
                "{}.c2lnbmF0dXJl",
                stranger.token("2", &claims).rsplit_once('.').unwrap().0
            );
            let authenticator = authenticator.clone();
            answers.spawn(async move { authenticator.authenticate(&head(&token)).await });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        reviews.count() <= 10 + 2 * MAX_REVIEWS_OF_UNKNOWN_KEYS,
        "{} in ten seconds",
        reviews.count()
    );
    // Most are refused at once, and the others in time.
    let refused = answers
        .join_all()
        .await
        .into_iter()
        .filter(Result::is_err)
        .count();
    assert!(
        refused >= 10_000 - 10 - REVIEWS_OF_UNKNOWN_KEYS_QUEUE,
        "{refused}"
    );
}

#[tokio::test]
async fn a_pod_that_shows_its_token_by_many_connections_is_told_so_and_keeps_those_that_it_has() {
    let authenticator = Reviews::default().authenticator();
    let bounds = ConnectionBounds::new(ConnectionLimits {
        total: 10,
        without_request: 10,
        unauthenticated_by_address: 10,
        by_pod: 2,
        not_entitled: 10,
    });
    let by_new_connection = async |kept: &mut Vec<Arc<Place>>| {
        let place = Arc::new(bounds.enter([10, 0, 0, 1].into()).unwrap());
        kept.push(place.clone());
        let mut head = head(&token("u1"));
        head.extensions.insert(place);
        authenticator.authenticate(&head).await
    };
    let mut kept = Vec::new();
    for _ in 0..2 {
        by_new_connection(&mut kept).await.unwrap();
    }
    let refused = by_new_connection(&mut kept).await.unwrap_err();
    assert_eq!(refused.reason(), "TooManyConnections");
    kept.pop();
    kept.pop();
    by_new_connection(&mut kept).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_once_a_minute_and_one_that_is_refused_once_a_second() {
    let reviews = Reviews::default();
    let authenticator = reviews.authenticator();
    for _ in 0..100 {
        let pod = authenticator.authenticate(&head(&token("u1"))).await.unwrap();
        assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("litellm-0", "u1"));
    }
    assert_eq!(reviews.count(), 1);
    tokio::time::sleep(ACCEPTED_FOR).await;
    authenticator.authenticate(&head(&token("u1"))).await.unwrap();
    assert_eq!(reviews.count(), 2);
    for _ in 0..100 {
        let refused = authenticator.authenticate(&head(&token("stranger"))).await;
        assert_eq!(refused.unwrap_err().reason(), "InvalidToken");
    }
    assert_eq!(reviews.count(), 3);
    tokio::time::sleep(REFUSED_FOR).await;
    let refused = authenticator.authenticate(&head(&token("stranger"))).await;
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
                .authenticate(&head(&token(&format!("u{number}"))))
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
        let bounds = ConnectionBounds::new(ConnectionLimits {
            total: 1,
            without_request: 1,
            unauthenticated_by_address: 1,
            by_pod: 1,
            not_entitled: 0,
        });
        let mut head = head(&token("u1"));
        let place = Arc::new(bounds.enter([10, 0, 0, 1].into()).unwrap());
        head.extensions.insert(place);
        let answer = authenticator.authenticate_replica(&head, &operator).await;
        let has_newcomer_its_place = bounds.enter([10, 0, 0, 2].into()).is_some();
        assert_eq!(has_newcomer_its_place, !is_replica);
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
