//! Whether an access token fits what it was asked for, as far as it can be read: a JWT (RFC 9068) is compared, an
//! opaque token is taken as it is. The signature is the MCP server's to verify.
//!
//! [`judge`] is called once on each token that is issued, before anyone gets it: where the answer of the token
//! endpoint has become an [`Issued`](crate::Issued).

mod claims;
pub(crate) mod mismatch;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

pub use claims::{Claims, read};
pub use mismatch::Mismatch;

use crate::Error;
use crate::redact::Quote;

/// How far the clocks of two machines may differ, in seconds.
const SKEW: i64 = 60;

/// Characters repeated of one claim.
const MOST_OF_CLAIM: usize = 200;

/// Values repeated of a list.
const MOST_OF_LIST: usize = 5;

/// What a token is compared with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TokenCheck {
    pub mode: Mode,
    /// Values of `aud` that fit besides `resource` and `audience`.
    pub accepted_audiences: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// A token that does not fit is an error.
    #[default]
    Enforce,
    /// It is issued, and the mismatch told with it.
    Report,
    Off,
}

/// What a token should say. What is not known is not compared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expectation {
    /// `iss`, byte for byte.
    pub issuer: Option<String>,
    /// One of them must be in `aud`, byte for byte: the resource, the audience, and those that are accepted.
    pub audiences: Vec<String>,
    /// All of them must be granted: the ones that were asked for.
    pub scopes: Vec<String>,
    /// `cnf.jkt`: the thumbprint of the proof key (RFC 9449 section 6.1).
    pub key_thumbprint: Option<String>,
}

/// What is known of a token once it is judged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Judged {
    /// `None`: the token is opaque.
    pub claims: Option<Claims>,
    /// What does not fit, where that is only to be reported.
    pub mismatch: Option<Mismatch>,
}

/// Reads a token, and compares it unless the mode is off. What does not fit is an error where that is enforced.
/// Nothing that `quote` keeps back is in the result.
pub(crate) fn judge(
    token: &SecretString,
    expectation: &Expectation,
    mode: Mode,
    quote: &Quote,
    now: Timestamp,
) -> Result<Judged, Error> {
    let Some(claims) = read(token.expose_secret()) else {
        return Ok(Judged::default());
    };
    let mismatch = match mode {
        Mode::Off => None,
        Mode::Enforce | Mode::Report => {
            let quote = quote.clone().and(token.expose_secret());
            compare(&claims, expectation, &quote, now).into_iter().next()
        }
    };
    match mismatch {
        Some(mismatch) if mode == Mode::Enforce => Err(Error::TokenMismatch(mismatch)),
        mismatch => Ok(Judged {
            claims: Some(claims),
            mismatch,
        }),
    }
}

/// All that does not fit, the most telling first.
pub(crate) fn compare(
    claims: &Claims,
    expectation: &Expectation,
    quote: &Quote,
    now: Timestamp,
) -> Vec<Mismatch> {
    [
        issuer(claims, expectation, quote),
        audience(claims, expectation, quote),
        key(claims, expectation, quote),
        over(claims, now),
        ahead("nbf", claims.not_before, now),
        ahead("iat", claims.issued_at, now),
        scope(claims, expectation, quote),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn issuer(claims: &Claims, expectation: &Expectation, quote: &Quote) -> Option<Mismatch> {
    let (found, expected) = (claims.issuer.as_ref()?, expectation.issuer.as_ref()?);
    (found != expected).then(|| Mismatch {
        claim: "iss",
        expected: list([expected], quote),
        found: list([found], quote) + note([found], [expected]),
    })
}

fn audience(claims: &Claims, expectation: &Expectation, quote: &Quote) -> Option<Mismatch> {
    let (found, expected) = (claims.audiences.as_ref()?, &expectation.audiences);
    let fits = expected.is_empty() || expected.iter().any(|one| found.contains(one));
    (!fits).then(|| Mismatch {
        claim: "aud",
        expected: list(expected, quote),
        found: list(found, quote) + note(found, expected),
    })
}

fn key(claims: &Claims, expectation: &Expectation, quote: &Quote) -> Option<Mismatch> {
    let (found, expected) = (
        claims.key_thumbprint.as_ref()?,
        expectation.key_thumbprint.as_ref()?,
    );
    (found != expected).then(|| Mismatch {
        claim: "cnf.jkt",
        expected: list([expected], quote),
        found: list([found], quote),
    })
}

fn scope(claims: &Claims, expectation: &Expectation, quote: &Quote) -> Option<Mismatch> {
    let found = claims.scopes.as_ref()?;
    let missing: Vec<_> = expectation
        .scopes
        .iter()
        .filter(|scope| !found.contains(scope))
        .collect();
    (!missing.is_empty()).then(|| Mismatch {
        claim: "scope",
        expected: format!("{} too", list(missing, quote)),
        found: list(found, quote),
    })
}

fn over(claims: &Claims, now: Timestamp) -> Option<Mismatch> {
    let since = now.as_second().saturating_sub(claims.expires_at?);
    (since >= 0).then(|| Mismatch {
        claim: "exp",
        expected: "a time to come".into(),
        found: format!("over since {since} s by the clock of this machine"),
    })
}

fn ahead(claim: &'static str, time: Option<i64>, now: Timestamp) -> Option<Mismatch> {
    let ahead = time?.saturating_sub(now.as_second());
    (ahead > SKEW).then(|| Mismatch {
        claim,
        expected: format!("no more than {SKEW} s ahead"),
        found: format!("{ahead} s ahead of the clock of this machine"),
    })
}

/// Not accepted, since the comparison is byte for byte everywhere, but the likeliest slip of all.
fn note<'a>(
    found: impl IntoIterator<Item = &'a String>,
    expected: impl IntoIterator<Item = &'a String> + Clone,
) -> &'static str {
    let bare = |text: &'a String| text.strip_suffix('/').unwrap_or(text);
    let alike = found
        .into_iter()
        .any(|found| expected.clone().into_iter().any(|one| bare(one) == bare(found)));
    if alike {
        " (a slash at the end makes the difference)"
    } else {
        ""
    }
}

/// Some of the values, each bounded and quoted.
fn list<'a>(values: impl IntoIterator<Item = &'a String>, quote: &Quote) -> String {
    let values: Vec<_> = values.into_iter().collect();
    let mut words: Vec<_> = values
        .iter()
        .take(MOST_OF_LIST)
        // Looking for secrets takes time by the length of the words; what is cut off needs none.
        .map(|value| match quote.text(start(value), MOST_OF_CLAIM) {
            Some(text) => format!("\"{text}\""),
            None if value.is_empty() => "\"\"".to_owned(),
            None => "(not repeated here)".to_owned(),
        })
        .collect();
    match values.len().checked_sub(MOST_OF_LIST) {
        _ if words.is_empty() => return "empty".to_owned(),
        Some(more) if more > 0 => words.push(format!("{more} more")),
        _ => {}
    }
    words.join(", ")
}

/// Enough of a value to find a secret across the cut.
fn start(value: &str) -> &str {
    let end = value.char_indices().nth(4 * MOST_OF_CLAIM).map(|(at, _)| at);
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
            issuer: Some("https://auth.example.com".into()),
            audiences: vec!["https://tools.example.com/mcp".into(), "urn:tools".into()],
            scopes: vec!["tools:read".into(), "tools:call".into()],
            key_thumbprint: Some("thumb".into()),
        }
    }

    fn good() -> Value {
        json!({
            "iss": "https://auth.example.com", "aud": "https://tools.example.com/mcp",
            "scope": "tools:read tools:call other", "exp": NOW + 300, "iat": NOW, "nbf": NOW,
            "cnf": {"jkt": "thumb"},
        })
    }

    /// The good token with this claim instead, or without it where it is null.
    fn judged(claim: &str, value: Value) -> Option<Mismatch> {
        let mut claims = good();
        claims[claim] = value;
        let token = jwt(&claims).into();
        let enforced = judge(&token, &expectation(), Mode::Enforce, &Quote::default(), now());
        let reported = judge(&token, &expectation(), Mode::Report, &Quote::default(), now()).unwrap();
        let off = judge(&token, &expectation(), Mode::Off, &Quote::default(), now()).unwrap();
        assert_eq!(off.mismatch, None);
        assert_eq!(
            enforced.err(),
            reported.mismatch.clone().map(Error::TokenMismatch)
        );
        reported.mismatch
    }

    fn told(claim: &str, value: Value) -> String {
        judged(claim, value).unwrap().to_string()
    }

    #[test]
    fn a_token_that_fits_is_taken_and_its_claims_are_known() {
        let token = jwt(&good()).into();
        let judged = judge(&token, &expectation(), Mode::Enforce, &Quote::default(), now()).unwrap();
        assert_eq!(judged.mismatch, None);
        assert_eq!(judged.claims.unwrap().expires_at, Some(NOW + 300));
    }

    #[test]
    fn an_opaque_token_is_taken_as_it_is() {
        for token in ["opaque", "a.b.c", "e30.e30", "e30.W10.x"] {
            let judged = judge(
                &token.into(),
                &expectation(),
                Mode::Enforce,
                &Quote::default(),
                now(),
            );
            assert_eq!(judged, Ok(Judged::default()), "{token}");
        }
    }

    #[test]
    fn a_claim_that_is_not_there_is_not_compared() {
        for claim in ["iss", "aud", "scope", "exp", "iat", "nbf", "cnf"] {
            assert_eq!(judged(claim, Value::Null), None, "{claim}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_compared() {
        let token = jwt(&json!({"iss": "x", "aud": "x", "scope": "x", "cnf": {"jkt": "x"}})).into();
        let nothing = Expectation::default();
        let judged = judge(&token, &nothing, Mode::Enforce, &Quote::default(), now()).unwrap();
        assert_eq!(judged.mismatch, None);
    }

    #[test]
    fn another_issuer_is_told() {
        assert_eq!(
            told("iss", json!("https://evil.example.com")),
            r#"its claim iss is "https://evil.example.com", expected "https://auth.example.com""#
        );
        assert!(told("iss", json!("https://auth.example.com/")).contains("a slash at the end"));
    }

    #[test]
    fn one_audience_of_many_is_enough() {
        assert_eq!(judged("aud", json!(["account", "urn:tools"])), None);
        assert_eq!(
            told("aud", json!(["account", "other"])),
            r#"its claim aud is "account", "other", expected "https://tools.example.com/mcp", "urn:tools""#
        );
        assert!(told("aud", json!([])).contains("aud is empty"));
        assert!(told("aud", json!("https://tools.example.com/mcp/")).contains("a slash at the end"));
        assert!(told("aud", json!("https://TOOLS.example.com/mcp")).contains("TOOLS"));
    }

    #[test]
    fn scopes_that_were_asked_for_and_are_not_granted_are_told() {
        assert_eq!(judged("scope", json!(["tools:call", "tools:read"])), None);
        assert_eq!(
            told("scope", json!("tools:read x")),
            r#"its claim scope is "tools:read", "x", expected "tools:call" too"#
        );
    }

    #[test]
    fn times_are_compared_by_this_machine_s_clock() {
        assert_eq!(judged("exp", json!(NOW + 1)), None);
        assert!(told("exp", json!(NOW)).contains("exp is over since 0 s"));
        assert!(told("exp", json!(NOW - 90)).contains("over since 90 s by the clock of this machine"));
        for claim in ["iat", "nbf"] {
            assert_eq!(judged(claim, json!(NOW + 60)), None);
            assert!(told(claim, json!(NOW + 61)).contains("is 61 s ahead of the clock of this machine"));
        }
        for extreme in [i64::MIN, i64::MAX] {
            let _ = judged("exp", json!(extreme));
            let _ = judged("iat", json!(extreme));
        }
    }

    #[test]
    fn a_token_bound_to_another_key_is_told() {
        assert!(told("cnf", json!({"jkt": "other"})).starts_with("its claim cnf.jkt is \"other\""));
    }

    #[test]
    fn what_is_told_is_bounded_and_holds_no_secret() {
        let secret = "cl1ent-s3cret-of-ours";
        let quote = Quote::default().and(secret);
        let many: Vec<_> = (0..100).map(|n| format!("{n}{}", "x".repeat(300))).collect();
        let mut claims = good();
        claims["aud"] = json!(many);
        claims["iss"] = json!(format!("you sent {secret}"));
        let token = jwt(&claims);
        let expectation = expectation();
        let all = compare(&read(&token).unwrap(), &expectation, &quote, now());
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
            let error = judge(&token.as_str().into(), &expectation(), Mode::Enforce, &Quote::default(), now());
            let seen = format!("{:?}", error.unwrap_err());
            prop_assert!(!seen.contains(&token));
        }
    }
}
