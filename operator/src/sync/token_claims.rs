//! A local look at a ServiceAccount token: whether asking the API server about it can lead to anything. It
//! proves nothing, since no signature is looked at, and only spares the API server what is refused anyway.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use mcp_auth_protocol::pod::AUDIENCE;
use serde::Deserialize;

use super::SyncError;

/// Clocks differ; the API server's decides.
const LEEWAY_SECONDS: i64 = 60;
/// Longer than any ServiceAccount token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Kubernetes: "Managing Service Accounts", structure of a bound token.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audience,
    exp: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    pod: Option<PodClaim>,
}

#[derive(Deserialize)]
struct PodClaim {
    uid: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// An error if the API server could not say that this is the token of a pod, and for us. Otherwise the end of
/// its life, as it says.
pub fn look_at(token: &str, now: Timestamp) -> Result<Option<Timestamp>, SyncError> {
    let not_a_token = || SyncError::InvalidToken("it is no ServiceAccount token".to_owned());
    let claims = claims(token).ok_or_else(not_a_token)?;
    if !claims.aud.contains(AUDIENCE) {
        return Err(SyncError::WrongAudience(AUDIENCE));
    }
    let expires_at = claims.exp.and_then(|exp| Timestamp::from_second(exp).ok());
    if expires_at.is_some_and(|end| end.as_second() + LEEWAY_SECONDS < now.as_second()) {
        return Err(SyncError::InvalidToken("it has expired".to_owned()));
    }
    let pod = claims.kubernetes.and_then(|kubernetes| kubernetes.pod);
    if pod.is_none_or(|pod| pod.uid.is_empty()) {
        return Err(SyncError::NotBoundToPod);
    }
    Ok(expires_at)
}

fn claims(token: &str) -> Option<Claims> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// A token with these claims that nobody has signed.
#[cfg(test)]
pub fn unsigned(claims: &serde_json::Value) -> String {
    let payload = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{payload}.c2ln")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn look(claims: serde_json::Value) -> Result<Option<Timestamp>, &'static str> {
        look_at(&unsigned(&claims), now()).map_err(|error| error.reason())
    }

    #[test]
    fn a_token_of_a_pod_for_us_is_worth_a_question() {
        let pod = json!({"namespace": "apps", "pod": {"name": "litellm-0", "uid": "u1"}});
        let end = Timestamp::from_second(1_800_000_600).unwrap();
        let claims = json!({"aud": [AUDIENCE], "exp": 1_800_000_600, "kubernetes.io": pod});
        assert_eq!(look(claims), Ok(Some(end)));
        let claims = json!({"aud": AUDIENCE, "kubernetes.io": pod});
        assert_eq!(look(claims), Ok(None));
        let just_over = json!({"aud": [AUDIENCE], "exp": 1_799_999_970, "kubernetes.io": pod});
        assert!(look(just_over).is_ok(), "the API server's clock decides");
    }

    #[test]
    fn what_the_api_server_would_refuse_anyway_is_refused_with_the_same_reason() {
        let pod = json!({"namespace": "apps", "pod": {"name": "litellm-0", "uid": "u1"}});
        let cases = [
            (
                json!({"aud": ["https://kubernetes.default.svc"], "kubernetes.io": pod}),
                "WrongAudience",
            ),
            (json!({"kubernetes.io": pod}), "WrongAudience"),
            (
                json!({"aud": [AUDIENCE], "exp": 1_700_000_000, "kubernetes.io": pod}),
                "InvalidToken",
            ),
            (
                json!({"aud": [AUDIENCE], "kubernetes.io": {"namespace": "apps"}}),
                "NotBoundToPod",
            ),
            (json!({"aud": [AUDIENCE]}), "NotBoundToPod"),
            (json!({"aud": 7}), "InvalidToken"),
            (json!([]), "InvalidToken"),
        ];
        for (claims, reason) in cases {
            assert_eq!(look(claims.clone()), Err(reason), "{claims}");
        }
        for token in [
            "",
            "garbage",
            "a.b",
            "a.b.c.d",
            "e30.!!.e30",
            &"x".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert_eq!(look_at(token, now()).unwrap_err().reason(), "InvalidToken");
        }
    }
}
