//! Reported claims: from a token to what may be told of it to people. Registered claims only, since those of a
//! server's own may say anything of anybody; without a secret in any of them, and bounded.

use serde::{Deserialize, Serialize};

use super::claims::read;
use super::{MAX_CLAIM_CHARS, start};
use crate::redact::Redactor;

/// Values of a list that are told.
const MAX_VALUES: usize = 20;

/// What a JWT says of itself, fit for statuses and terminals.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedClaims {
    pub issuer: Option<String>,
    pub subject: Option<String>,
    pub client_id: Option<String>,
    pub audiences: Vec<String>,
    pub scopes: Vec<String>,
    /// Unix seconds, like the other times.
    pub expires_at: Option<i64>,
    pub not_before: Option<i64>,
    pub issued_at: Option<i64>,
    pub key_thumbprint: Option<String>,
    pub certificate_thumbprint: Option<String>,
}

impl ReportedClaims {
    /// Nothing where the token is opaque. Nothing that `redactor` keeps back is in the result.
    pub(crate) fn of(token: &str, redactor: &Redactor) -> Option<Self> {
        let claims = read(token)?;
        let redactor = redactor.clone().hide(token);
        let text = |text: Option<String>| text.map(|text| told(&text, &redactor));
        let list = |values: Option<Vec<String>>| told_list(&values.unwrap_or_default(), &redactor);
        Some(Self {
            issuer: text(claims.issuer),
            subject: text(claims.subject),
            client_id: text(claims.client_id),
            audiences: list(claims.audiences),
            scopes: list(claims.scopes),
            expires_at: claims.expires_at,
            not_before: claims.not_before,
            issued_at: claims.issued_at,
            key_thumbprint: text(claims.key_thumbprint),
            certificate_thumbprint: text(claims.certificate_thumbprint),
        })
    }

    /// Of a token that another program requested, whose secrets are not known here.
    pub fn of_given_token(token: &str) -> Option<Self> {
        Self::of(token, &Redactor::default())
    }
}

fn told(value: &str, redactor: &Redactor) -> String {
    match redactor.redact(start(value), MAX_CLAIM_CHARS) {
        Some(text) => text,
        None if value.trim().is_empty() => String::new(),
        None => "(not repeated here)".to_owned(),
    }
}

fn told_list(values: &[String], redactor: &Redactor) -> Vec<String> {
    let (listed, rest) = values.split_at(values.len().min(MAX_VALUES));
    let mut told: Vec<String> = listed.iter().map(|value| told(value, redactor)).collect();
    if !rest.is_empty() {
        told.push(format!("({} more)", rest.len()));
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::claims::tests::jwt;
    use super::*;

    const SECRET: &str = "a-client-secret-of-some-length";

    fn reported(claims: &serde_json::Value) -> ReportedClaims {
        ReportedClaims::of(&jwt(claims), &Redactor::default().hide(SECRET)).unwrap()
    }

    #[test]
    fn registered_claims_are_told_and_no_others() {
        let told = reported(&json!({
            "iss": "https://auth.example.com", "sub": "litellm", "client_id": "litellm", "aud": "https://tools",
            "scope": "read write", "exp": 1_900_000_000, "iat": 1_899_999_400,
            "jti": "an-identifier", "email": "ada@example.com", "groups": ["staff"],
        }));
        let expected = ReportedClaims {
            issuer: Some("https://auth.example.com".into()),
            subject: Some("litellm".into()),
            client_id: Some("litellm".into()),
            audiences: vec!["https://tools".into()],
            scopes: vec!["read".into(), "write".into()],
            expires_at: Some(1_900_000_000),
            issued_at: Some(1_899_999_400),
            ..ReportedClaims::default()
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn a_claim_that_repeats_a_secret_or_the_token_is_kept_back() {
        let told = reported(&json!({"sub": format!("id of {SECRET}"), "aud": [SECRET, "tools"]}));
        assert_eq!(told.subject.as_deref(), Some("(not repeated here)"));
        assert_eq!(told.audiences, ["(not repeated here)", "tools"]);
    }

    #[test]
    fn what_a_server_writes_at_length_is_cut_and_cannot_move_a_cursor() {
        let many: Vec<String> = (0..100).map(|number| format!("scope-{number}")).collect();
        let told = reported(&json!({"iss": "x".repeat(10_000), "sub": "a\u{1b}[2Jb", "scope": many}));
        assert_eq!(told.issuer.unwrap().len(), MAX_CLAIM_CHARS);
        assert_eq!(told.subject.as_deref(), Some("a?[2Jb"));
        assert_eq!(told.scopes.len(), MAX_VALUES + 1);
        assert_eq!(told.scopes[MAX_VALUES], "(80 more)");
    }

    #[test]
    fn an_opaque_token_says_nothing() {
        assert_eq!(ReportedClaims::of_given_token("0pa.que"), None);
        assert!(ReportedClaims::of_given_token(&jwt(&json!({}))).is_some());
    }
}
