//! The cluster's own keys for ServiceAccount tokens (JWKS, `/openid/v1/jwks` of the API server): a token that names one of them
//! and was not signed by it is forged, and the API server need not be asked about it. What is genuine is for a TokenReview to
//! say all the same: the pod of a token may be gone.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use kube::Client;
use mcp_auth_http_auth::jws::{CompactJws, Jwk, SignatureError, VerifyingKeys};
use mcp_auth_oauth::{PublicKey, read_key_set};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::api_server::with_deadline;

/// Every ServiceAccount may read it (ClusterRole `system:service-account-issuer-discovery`).
const PATH: &str = "/openid/v1/jwks";
/// How long the keys are used before they are read again.
const REFRESH_AFTER: Duration = Duration::from_secs(10 * 60);
/// How long until another attempt where there are no keys, and where a token names one that is not known: the API server's keys
/// may have been rotated.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// What the keys say of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signature {
    Genuine,
    Forged,
    /// It names a key that is not among those that were read.
    OfUnknownKey,
    /// There are no keys to look at it by.
    NotLookedAt,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct IssuerKeys {
    client: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<VerifyingKeys>>,
    attempted_at: Option<Instant>,
}

impl IssuerKeys {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            state: Arc::default(),
        }
    }

    /// Never waits: keys that are not there yet, or too old, are read meanwhile.
    pub fn look_at(&self, token: &str) -> Signature {
        let keys = self.state.lock().keys.clone();
        let signature = match &keys {
            Some(keys) => signature(keys, token),
            None => Signature::NotLookedAt,
        };
        let refresh_after = match signature {
            Signature::Genuine | Signature::Forged => REFRESH_AFTER,
            Signature::OfUnknownKey | Signature::NotLookedAt => RETRY_AFTER,
        };
        self.refresh_after(refresh_after);
        signature
    }

    fn refresh_after(&self, age: Duration) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if state.attempted_at.is_some_and(|at| now.duration_since(at) < age) {
                return;
            }
            state.attempted_at = Some(now);
        }
        let keys = self.clone();
        tokio::spawn(async move { keys.refresh().await });
    }

    async fn refresh(&self) {
        let body = match self.read().await {
            Ok(body) => body,
            // Those that are known are still the cluster's.
            Err(why) => {
                debug!(why, "the cluster's keys for ServiceAccount tokens cannot be read");
                return;
            }
        };
        let keys = usable_keys(&body).map(Arc::new);
        let (before, now) = {
            let mut state = self.state.lock();
            (
                std::mem::replace(&mut state.keys, keys.clone()).is_some(),
                keys.is_some(),
            )
        };
        match (before, now) {
            (false, true) => info!(
                "the cluster's keys for ServiceAccount tokens are known: forged tokens are refused without a TokenReview"
            ),
            (true, false) => info!(
                "signatures cannot be verified by every key of the cluster for ServiceAccount tokens: each token costs a TokenReview"
            ),
            _ => {}
        }
    }

    async fn read(&self) -> Result<String, String> {
        let request = Request::get(PATH).body(Vec::new());
        let request = request.map_err(|error| error.to_string())?;
        let body = with_deadline(self.client.request_text(request)).await;
        body.map_err(|error| error.to_string())
    }
}

/// `None` where signatures cannot be verified by every key of the set: one that is left out would make strangers of the tokens
/// that it signed.
fn usable_keys(set: &str) -> Option<VerifyingKeys> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<IgnoredAny>,
    }
    let stated = serde_json::from_str::<KeySet>(set).ok()?.keys.len();
    let found = read_key_set(set.as_bytes());
    let keys = VerifyingKeys::new(found.iter().map(jwk));
    (stated > 0 && keys.len() == stated).then_some(keys)
}

fn signature(keys: &VerifyingKeys, token: &str) -> Signature {
    let Some(jws) = CompactJws::read(token.as_bytes()) else {
        return Signature::Forged;
    };
    // Every token of an API server names its key.
    if jws.key_id().is_none() {
        return Signature::OfUnknownKey;
    }
    match keys.verify(&jws) {
        Ok(()) => Signature::Genuine,
        Err(SignatureError::Invalid) => Signature::Forged,
        // The cluster may have begun to sign by a key of another kind since its keys were read.
        Err(SignatureError::UnknownKey | SignatureError::AlgorithmUnsupported) => Signature::OfUnknownKey,
    }
}

fn jwk(key: &PublicKey) -> Jwk<'_> {
    Jwk {
        kty: &key.kty,
        kid: key.kid.as_deref(),
        alg: key.alg.as_deref(),
        crv: key.crv.as_deref(),
        n: key.n.as_deref(),
        e: key.e.as_deref(),
        x: key.x.as_deref(),
        y: key.y.as_deref(),
    }
}

#[cfg(test)]
pub mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use mcp_auth_http_auth::jws::{encode_header, sign_compact};
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    /// Signs as an API server does.
    pub struct Issuer(EcdsaKeyPair);

    impl Issuer {
        pub fn new() -> Self {
            let (signing, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap())
        }

        pub fn jwk(&self, id: &str) -> Value {
            let point = self.0.public_key().as_ref();
            let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
            json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
                "x": text(&point[1..33]), "y": text(&point[33..])})
        }

        pub fn token(&self, id: &str, claims: &Value) -> String {
            let header = encode_header(&json!({"alg": "ES256", "kid": id}).to_string());
            let sign = |message: &[u8]| {
                let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
                Ok::<_, SignatureError>(signature.as_ref().to_vec())
            };
            sign_compact(&header, claims.to_string().as_bytes(), sign).unwrap()
        }
    }

    /// What the API server answers to the request for its keys.
    pub fn key_set(keys: Value) -> Router {
        let body = json!({"keys": keys}).to_string();
        Router::new().route(PATH, get(move || async move { body }))
    }

    /// Once the first attempt to read them is over.
    pub async fn looked_at(keys: &IssuerKeys, token: &str) -> Signature {
        for _ in 0..10_000 {
            let signature = keys.look_at(token);
            if signature != Signature::NotLookedAt {
                return signature;
            }
            tokio::task::yield_now().await;
        }
        Signature::NotLookedAt
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_of_the_cluster_or_forged_or_of_a_key_that_is_not_known() {
        let (cluster, stranger) = (Issuer::new(), Issuer::new());
        let keys = IssuerKeys::new(Client::new(key_set(json!([cluster.jwk("1")])), "default"));
        let claims = json!({"sub": "system:serviceaccount:apps:default"});
        assert_eq!(keys.look_at(&cluster.token("1", &claims)), Signature::NotLookedAt);
        assert_eq!(
            looked_at(&keys, &cluster.token("1", &claims)).await,
            Signature::Genuine
        );
        assert_eq!(keys.look_at(&stranger.token("1", &claims)), Signature::Forged);
        assert_eq!(
            keys.look_at(&stranger.token("2", &claims)),
            Signature::OfUnknownKey
        );
        assert_eq!(keys.look_at("no token"), Signature::Forged);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_begins_to_sign_by_a_kind_of_key_that_is_not_verified_is_not_called_a_forger() {
        let cluster = Issuer::new();
        let keys = Arc::new(Mutex::new(json!([cluster.jwk("1")])));
        let served = keys.clone();
        let server = Router::new().route(
            PATH,
            get(move || async move { json!({"keys": *served.lock()}).to_string() }),
        );
        let issuer_keys = IssuerKeys::new(Client::new(server, "default"));
        let of_before = cluster.token("1", &json!({}));
        assert_eq!(looked_at(&issuer_keys, &of_before).await, Signature::Genuine);

        let header = encode_header(&json!({"alg": "ES512", "kid": "2"}).to_string());
        let sign = |_: &[u8]| Ok::<_, SignatureError>(vec![0; 132]);
        let of_now = sign_compact(&header, b"{}", sign).unwrap();
        keys.lock().as_array_mut().unwrap().push(p521("2"));
        assert_eq!(issuer_keys.look_at(&of_now), Signature::OfUnknownKey);
        tokio::time::advance(RETRY_AFTER).await;
        for _ in 0..10_000 {
            if issuer_keys.look_at(&of_now) == Signature::NotLookedAt {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(issuer_keys.look_at(&of_now), Signature::NotLookedAt);
        assert_eq!(issuer_keys.look_at(&of_before), Signature::NotLookedAt);
    }

    /// A kind that Kubernetes knows, and this does not.
    fn p521(id: &str) -> Value {
        json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-521", "alg": "ES512", "x": "AA", "y": "AA"})
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_cannot_all_be_verified_by_or_read_say_nothing() {
        let cluster = Issuer::new();
        let token = cluster.token("1", &json!({}));
        let refused = Router::new().route(PATH, get(|| async { StatusCode::FORBIDDEN }));
        let not_json = Router::new().route(PATH, get(|| async { "<html>" }));
        for server in [
            key_set(json!([cluster.jwk("1"), p521("2")])),
            key_set(json!([cluster.jwk("1"), {"kty": "LATER", "kid": "2"}])),
            key_set(json!([])),
            refused,
            not_json,
        ] {
            let keys = IssuerKeys::new(Client::new(server, "default"));
            assert_eq!(looked_at(&keys, &token).await, Signature::NotLookedAt);
        }
    }
}
