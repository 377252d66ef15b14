//! Token check: whether an access token fits the request that it was issued for, as far as it can be read: a
//! JWT (RFC 9068) is compared, an opaque token is taken as it is. The signature is the MCP server's to
//! verify.
//!
//! [`check`] is called once on each token that is issued, before anyone gets it: where the answer of the
//! token endpoint has become an [`IssuedToken`](crate::IssuedToken).

mod claims;
pub(crate) mod mismatch;
mod reported;

use jiff::Timestamp;
use oauth2::{AccessToken, Scope};

pub use claims::{Claims, read};
pub use mismatch::ClaimMismatchError;
pub use reported::ReportedClaims;

use crate::Error;
use crate::issuer::is_same_issuer;
use crate::redact::Redactor;

/// How far the clocks of two machines may differ, in seconds.
const MAX_CLOCK_SKEW: i64 = 60;

/// Characters repeated of one claim.
const MAX_CLAIM_CHARS: usize = 200;

/// Values repeated of a list.
const MAX_LISTED_VALUES: usize = 5;

/// What a token is compared with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenCheck {
    pub mode: TokenCheckMode,
    /// Values of `aud` that fit besides `resource` and `audience`.
    pub accepted_audiences: Vec<String>,
    /// Values of `iss` that fit besides the authorization server's issuer, where that is known.
    pub accepted_issuers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TokenCheckMode {
    /// A token of another issuer, for another audience or bound to another key is an error. What else does not
    /// fit is reported with it: a token of fewer scopes serves the calls that need no more, and times are
    /// compared by another clock than the MCP server's.
    #[default]
    Enforce,
    /// It is issued, and any mismatch is reported with it.
    Report,
    Off,
}

/// What a token should say. What is not known is not compared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expectation {
    /// One of them must be `iss`. None: it is not known.
    pub issuers: Vec<String>,
    /// One of them must be in `aud`, byte for byte: the resource, the audience, and those that are accepted.
    pub audiences: Vec<String>,
    /// All of them must be granted: the ones that were asked for.
    pub scopes: Vec<Scope>,
    /// `cnf.jkt`: the thumbprint of the proof key (RFC 9449 section 6.1).
    pub key_thumbprint: Option<String>,
    /// `cnf.x5t#S256`: the thumbprint of the client's certificate (RFC 8705 section 3.1).
    pub certificate_thumbprint: Option<String>,
}

/// What is known of a token once it is checked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CheckedToken {
    /// `None`: the token is opaque.
    pub claims: Option<Claims>,
    /// What does not fit, where that is only to be reported.
    pub mismatch: Option<ClaimMismatchError>,
}

/// Reads a token, and compares it unless the mode is off. What does not fit is an error where that is
/// enforced, and else the first of it is told. Nothing that `redactor` keeps back is in the result.
pub(crate) fn check(
    token: &AccessToken,
    expectation: &Expectation,
    mode: TokenCheckMode,
    redactor: &Redactor,
    now: Timestamp,
) -> Result<CheckedToken, Error> {
    let Some(claims) = read(token.secret()) else {
        return Ok(CheckedToken::default());
    };
    let mismatch = match mode {
        TokenCheckMode::Off => None,
        TokenCheckMode::Enforce | TokenCheckMode::Report => {
            let redactor = redactor.clone().hide(token.secret());
            // Those that are enforced come first.
            mismatches(&claims, expectation, &redactor, now)
                .into_iter()
                .next()
        }
    };
    match mismatch {
        Some(mismatch) if mode == TokenCheckMode::Enforce && mismatch.is_of_another_use() => {
            Err(Error::TokenMismatch(mismatch))
        }
        mismatch => Ok(CheckedToken {
            claims: Some(claims),
            mismatch,
        }),
    }
}

/// All that does not fit, the most telling first.
pub(crate) fn mismatches(
    claims: &Claims,
    expectation: &Expectation,
    redactor: &Redactor,
    now: Timestamp,
) -> Vec<ClaimMismatchError> {
    [
        issuer(claims, expectation, redactor),
        audience(claims, expectation, redactor),
        thumbprint(
            "cnf.jkt",
            &claims.key_thumbprint,
            &expectation.key_thumbprint,
            redactor,
        ),
        thumbprint(
            "cnf.x5t#S256",
            &claims.certificate_thumbprint,
            &expectation.certificate_thumbprint,
            redactor,
        ),
        expired(claims, now),
        in_the_future("nbf", claims.not_before, now),
        in_the_future("iat", claims.issued_at, now),
        scope(claims, expectation, redactor),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn issuer(claims: &Claims, expectation: &Expectation, redactor: &Redactor) -> Option<ClaimMismatchError> {
    let (found, expected) = (claims.issuer.as_ref()?, &expectation.issuers);
    let fits = expected.is_empty() || expected.iter().any(|one| is_same_issuer(found, one));
    (!fits).then(|| ClaimMismatchError {
        claim: "iss".into(),
        expected: list(expected, redactor),
        found: list([found], redactor) + slash_hint([found], expected),
    })
}

fn audience(claims: &Claims, expectation: &Expectation, redactor: &Redactor) -> Option<ClaimMismatchError> {
    let (found, expected) = (claims.audiences.as_ref()?, &expectation.audiences);
    let fits = expected.is_empty() || expected.iter().any(|one| found.contains(one));
    (!fits).then(|| ClaimMismatchError {
        claim: "aud".into(),
        expected: list(expected, redactor),
        found: list(found, redactor) + slash_hint(found, expected),
    })
}

fn thumbprint(
    claim: &'static str,
    found: &Option<String>,
    expected: &Option<String>,
    redactor: &Redactor,
) -> Option<ClaimMismatchError> {
    let (found, expected) = (found.as_ref()?, expected.as_ref()?);
    (found != expected).then(|| ClaimMismatchError {
        claim: claim.into(),
        expected: list([expected], redactor),
        found: list([found], redactor),
    })
}

fn scope(claims: &Claims, expectation: &Expectation, redactor: &Redactor) -> Option<ClaimMismatchError> {
    let granted = claims.scopes.as_ref()?;
    let missing: Vec<_> = expectation
        .scopes
        .iter()
        .filter(|scope| !granted.contains(scope))
        .collect();
    (!missing.is_empty()).then(|| ClaimMismatchError {
        claim: "scope".into(),
        expected: format!(
            "{} too",
            list(missing.into_iter().map(|scope| &**scope), redactor)
        ),
        found: list(granted, redactor),
    })
}

fn expired(claims: &Claims, now: Timestamp) -> Option<ClaimMismatchError> {
    let since = now.as_second().saturating_sub(claims.expires_at?);
    (since >= 0).then(|| ClaimMismatchError {
        claim: "exp".into(),
        expected: "a time to come".into(),
        found: format!("over since {since} s by the clock of this machine"),
    })
}

fn in_the_future(claim: &'static str, time: Option<i64>, now: Timestamp) -> Option<ClaimMismatchError> {
    let in_the_future = time?.saturating_sub(now.as_second());
    (in_the_future > MAX_CLOCK_SKEW).then(|| ClaimMismatchError {
        claim: claim.into(),
        expected: format!("no more than {MAX_CLOCK_SKEW} s ahead"),
        found: format!("{in_the_future} s ahead of the clock of this machine"),
    })
}

/// Not accepted, since the comparison is byte for byte, but the likeliest slip of all.
fn slash_hint<'a>(
    found: impl IntoIterator<Item = &'a String>,
    expected: impl IntoIterator<Item = &'a String> + Clone,
) -> &'static str {
    let bare = |text: &'a String| text.strip_suffix('/').unwrap_or(text);
    let differs_by_slash = found
        .into_iter()
        .any(|found| expected.clone().into_iter().any(|one| bare(one) == bare(found)));
    if differs_by_slash {
        " (a slash at the end makes the difference)"
    } else {
        ""
    }
}

/// Some of the values, each bounded and quoted.
fn list<'a>(values: impl IntoIterator<Item = &'a String>, redactor: &Redactor) -> String {
    let values: Vec<_> = values.into_iter().collect();
    let mut shown: Vec<_> = values
        .iter()
        .take(MAX_LISTED_VALUES)
        // Looking for secrets takes time by the length of the words; what is cut off needs none.
        .map(|value| match redactor.redact(start(value), MAX_CLAIM_CHARS) {
            Some(text) => format!("\"{text}\""),
            None if value.is_empty() => "\"\"".to_owned(),
            None => "(not repeated here)".to_owned(),
        })
        .collect();
    match values.len().checked_sub(MAX_LISTED_VALUES) {
        _ if shown.is_empty() => return "empty".to_owned(),
        Some(more) if more > 0 => shown.push(format!("{more} more")),
        _ => {}
    }
    shown.join(", ")
}

/// Enough of a value to find a secret across the cut.
fn start(value: &str) -> &str {
    let end = value.char_indices().nth(4 * MAX_CLAIM_CHARS).map(|(at, _)| at);
    &value[..end.unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::claims::tests::jwt;
    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn expectation() -> Expectation {
        Expectation {
            issuers: vec![
                "https://auth.example.com/a".into(),
                "https://sts.example.com".into(),
            ],
            audiences: vec!["https://tools.example.com/mcp".into(), "urn:tools".into()],
            scopes: ["tools:read", "tools:call"]
                .map(|name| Scope::new(name.into()))
                .into(),
            key_thumbprint: Some("thumb".into()),
            certificate_thumbprint: Some("print".into()),
        }
    }

    fn good() -> Value {
        json!({
            "iss": "https://auth.example.com/a", "aud": "https://tools.example.com/mcp",
            "scope": "tools:read tools:call other", "exp": NOW + 300, "iat": NOW, "nbf": NOW,
            "cnf": {"jkt": "thumb", "x5t#S256": "print"},
        })
    }

    /// The good token with this claim instead, or without it where it is null.
    fn checked(claim: &str, value: Value) -> Option<ClaimMismatchError> {
        let mut claims = good();
        claims[claim] = value;
        let token = AccessToken::new(jwt(&claims));
        let enforced = check(
            &token,
            &expectation(),
            TokenCheckMode::Enforce,
            &Redactor::default(),
            now(),
        );
        let reported = check(
            &token,
            &expectation(),
            TokenCheckMode::Report,
            &Redactor::default(),
            now(),
        )
        .unwrap();
        let off = check(
            &token,
            &expectation(),
            TokenCheckMode::Off,
            &Redactor::default(),
            now(),
        )
        .unwrap();
        assert_eq!(off.mismatch, None);
        let is_enforced = ["iss", "aud", "cnf"].contains(&claim);
        match (enforced, &reported.mismatch) {
            (Err(error), Some(mismatch)) if is_enforced => {
                assert_eq!(error, Error::TokenMismatch(mismatch.clone()));
            }
            (enforced, mismatch) => assert_eq!(enforced.unwrap().mismatch, *mismatch),
        }
        reported.mismatch
    }

    fn mismatch_text(claim: &str, value: Value) -> String {
        checked(claim, value).unwrap().to_string()
    }

    #[test]
    fn a_token_that_fits_is_taken_and_its_claims_are_known() {
        let token = AccessToken::new(jwt(&good()));
        let checked = check(
            &token,
            &expectation(),
            TokenCheckMode::Enforce,
            &Redactor::default(),
            now(),
        )
        .unwrap();
        assert_eq!(checked.mismatch, None);
        assert_eq!(checked.claims.unwrap().expires_at, Some(NOW + 300));
    }

    #[test]
    fn an_opaque_token_is_taken_as_it_is() {
        for token in ["opaque", "a.b.c", "e30.e30", "e30.W10.x"] {
            let checked = check(
                &AccessToken::new(token.into()),
                &expectation(),
                TokenCheckMode::Enforce,
                &Redactor::default(),
                now(),
            );
            assert_eq!(checked, Ok(CheckedToken::default()), "{token}");
        }
    }

    #[test]
    fn a_claim_that_is_not_there_is_not_compared() {
        for claim in ["iss", "aud", "scope", "exp", "iat", "nbf", "cnf"] {
            assert_eq!(checked(claim, Value::Null), None, "{claim}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_compared() {
        let token = AccessToken::new(jwt(
            &json!({"iss": "x", "aud": "x", "scope": "x", "cnf": {"jkt": "x"}}),
        ));
        let nothing = Expectation::default();
        let checked = check(
            &token,
            &nothing,
            TokenCheckMode::Enforce,
            &Redactor::default(),
            now(),
        )
        .unwrap();
        assert_eq!(checked.mismatch, None);
    }

    #[test]
    fn another_issuer_is_told() {
        assert_eq!(
            mismatch_text("iss", json!("https://evil.example.com")),
            r#"its claim iss is "https://evil.example.com", expected "https://auth.example.com/a", "https://sts.example.com""#
        );
        assert!(mismatch_text("iss", json!("https://auth.example.com/a/")).contains("a slash at the end"));
    }

    #[test]
    fn an_issuer_that_is_accepted_fits_with_a_slash_or_without_where_it_has_no_path() {
        for issuer in ["https://sts.example.com", "https://sts.example.com/"] {
            assert_eq!(checked("iss", json!(issuer)), None);
        }
    }

    #[test]
    fn one_audience_of_many_is_enough() {
        assert_eq!(checked("aud", json!(["account", "urn:tools"])), None);
        assert_eq!(
            mismatch_text("aud", json!(["account", "other"])),
            r#"its claim aud is "account", "other", expected "https://tools.example.com/mcp", "urn:tools""#
        );
        assert!(mismatch_text("aud", json!([])).contains("aud is empty"));
        assert!(mismatch_text("aud", json!("https://tools.example.com/mcp/")).contains("a slash at the end"));
        assert!(mismatch_text("aud", json!("https://TOOLS.example.com/mcp")).contains("TOOLS"));
    }

    #[test]
    fn scopes_that_were_asked_for_and_are_not_granted_are_told() {
        assert_eq!(checked("scope", json!(["tools:call", "tools:read"])), None);
        assert_eq!(
            mismatch_text("scope", json!("tools:read x")),
            r#"its claim scope is "tools:read", "x", expected "tools:call" too"#
        );
    }

    #[test]
    fn times_are_compared_by_this_machine_s_clock() {
        assert_eq!(checked("exp", json!(NOW + 1)), None);
        assert!(mismatch_text("exp", json!(NOW)).contains("exp is over since 0 s"));
        assert!(
            mismatch_text("exp", json!(NOW - 90)).contains("over since 90 s by the clock of this machine")
        );
        for claim in ["iat", "nbf"] {
            assert_eq!(checked(claim, json!(NOW + 60)), None);
            assert!(
                mismatch_text(claim, json!(NOW + 61)).contains("is 61 s ahead of the clock of this machine")
            );
        }
        for extreme in [i64::MIN, i64::MAX] {
            let _ = checked("exp", json!(extreme));
            let _ = checked("iat", json!(extreme));
        }
    }

    #[test]
    fn a_token_bound_to_another_key_is_told() {
        assert!(mismatch_text("cnf", json!({"jkt": "other"})).starts_with("its claim cnf.jkt is \"other\""));
        let certificate = mismatch_text("cnf", json!({"jkt": "thumb", "x5t#S256": "other"}));
        assert!(
            certificate.starts_with("its claim cnf.x5t#S256 is \"other\""),
            "{certificate}"
        );
    }

    #[test]
    fn what_is_told_is_bounded_and_holds_no_secret() {
        let secret = "cl1ent-s3cret-of-ours";
        let redactor = Redactor::default().hide(secret);
        let many: Vec<_> = (0..100).map(|n| format!("{n}{}", "x".repeat(300))).collect();
        let mut claims = good();
        claims["aud"] = json!(many);
        claims["iss"] = json!(format!("you sent {secret}"));
        let token = jwt(&claims);
        let expectation = expectation();
        let all = mismatches(&read(&token).unwrap(), &expectation, &redactor, now());
        let seen = format!("{all:?}");
        assert_eq!(all.len(), 2);
        assert!(seen.len() < 3000 && seen.contains("95 more"), "{seen}");
        assert!(
            !seen.contains(secret) && seen.contains("(not repeated here)"),
            "{seen}"
        );
    }

    proptest! {
        #[test]
        fn a_mismatch_never_tells_the_token(iss in "\\PC{0,80}", aud in "\\PC{0,80}", scope in "\\PC{0,80}") {
            let token = jwt(&json!({"iss": iss, "aud": aud, "scope": scope, "exp": NOW - 1}));
            let access_token = AccessToken::new(token.clone());
            let error =
                check(&access_token, &expectation(), TokenCheckMode::Enforce, &Redactor::default(), now());
            let seen = format!("{:?}", error.unwrap_err());
            prop_assert!(!seen.contains(&token));
        }
    }
}
