//! The user of a call, as the resource's `spec.audit.user` says, or by a fingerprint of what the MCP server gets
//! of the user.

use mcp_auth_protocol::sync::SubjectTokenSource;
use serde::Serialize;

use super::fingerprint_cache::FingerprintCache;
use super::message::cut;
use crate::proxy::fingerprint::{Fingerprint, Parts};
use crate::proxy::jwt::Jwt;
use crate::proxy::routes::{AuditSettings, AuditUserSource, UsableServer};
use crate::proxy::user_context::Context;
use crate::proxy::user_problem::UserProblem;

/// Who called.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's name, where one is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it was looked for, such as `header:x-forwarded-user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether a signature vouches for `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// Why there is no `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<UserProblem>,
    /// Of the cookies and headers that say who the user is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
}

/// The user by what the request carried at `now`, in seconds since 1970. `None` where it carried nothing of a user
/// and no name was expected.
pub fn identify(
    settings: &AuditSettings,
    server: Option<&UsableServer>,
    context: Option<&Context>,
    fingerprints: &FingerprintCache,
    now: i64,
) -> Option<User> {
    let Some(source) = &settings.user else {
        let fingerprint = user_fingerprint(server?, context?, fingerprints);
        return fingerprint.map(|fingerprint| User {
            fingerprint: Some(fingerprint),
            ..User::default()
        });
    };
    let mut user = User {
        source: Some(match &source.from {
            SubjectTokenSource::Cookie(name) => format!("cookie:{name}"),
            SubjectTokenSource::Header(name) => format!("header:{name}"),
        }),
        ..User::default()
    };
    let value = context.and_then(|context| context.value(&source.from));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        user.problem = Some(UserProblem::Missing);
        return Some(user);
    };
    let name = match (&source.claim, &source.from) {
        (Some(claim), _) => claim_of(value, claim, source, now).map(Some),
        (None, SubjectTokenSource::Header(_)) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        // A cookie's value is a session, which is as good as a password.
        (None, SubjectTokenSource::Cookie(_)) => Ok(None),
    };
    match name {
        Ok(Some(name)) => {
            user.id = Some(cut(name.into()).into_owned());
            user.verified = Some(source.verifier.is_some());
        }
        Ok(None) => {}
        Err(problem) => user.problem = Some(problem),
    }
    if user.id.is_none() {
        user.fingerprint = Some(fingerprints.fingerprint(&Parts::from_iter([value])));
    }
    Some(user)
}

/// The claim of a JWT, which has to be verified first where the resource says by whose keys.
fn claim_of(value: &[u8], claim: &str, source: &AuditUserSource, now: i64) -> Result<String, UserProblem> {
    let jwt = Jwt::read(value)?;
    if let Some(verifier) = &source.verifier {
        verifier.verify(&jwt, now)?;
    }
    jwt.name(claim)
}

/// Of all that the MCP server gets of the user, or the operator for it.
fn user_fingerprint(
    server: &UsableServer,
    context: &Context,
    fingerprints: &FingerprintCache,
) -> Option<Fingerprint> {
    let mut parts = Parts::default();
    for (name, value) in context.cookies() {
        if server.allowed.cookie(name) || is_exchanged(server, name, true) {
            parts.extend([b"cookie", name, value]);
        }
    }
    for (name, value) in context.headers() {
        if server.allowed.header(name) || is_exchanged(server, name, false) {
            parts.extend([b"header", name, value]);
        }
    }
    (!parts.is_empty()).then(|| fingerprints.fingerprint(&parts))
}

fn is_exchanged(server: &UsableServer, name: &[u8], is_cookie: bool) -> bool {
    match &server.exchange {
        Some(SubjectTokenSource::Cookie(exchanged)) => is_cookie && exchanged.as_bytes() == name,
        Some(SubjectTokenSource::Header(exchanged)) => !is_cookie && exchanged.as_bytes() == name,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::proxy::fingerprint::{Fingerprinter, Kind};
    use crate::proxy::routes::AuditUserSource;

    fn settings(from: SubjectTokenSource, claim: Option<&str>) -> AuditSettings {
        AuditSettings {
            argument_names: false,
            user: Some(AuditUserSource {
                from,
                claim: claim.map(Into::into),
                verifier: None,
            }),
        }
    }

    fn jwt(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part(r#"{"alg":"ES256"}"#), part(claims))
    }

    fn fingerprints() -> FingerprintCache {
        FingerprintCache::new(Fingerprinter::new(), Kind::User)
    }

    fn user(settings: &AuditSettings, cookie: &str, header: &str) -> User {
        let context = Context::encode(
            vec![(b"sid", cookie.as_bytes())],
            vec![(b"x-user", header.as_bytes())],
        );
        identify(settings, None, Some(&context), &fingerprints(), 0).unwrap()
    }

    #[test]
    fn a_header_names_the_user_and_a_cookie_shows_only_its_fingerprint() {
        let header = settings(SubjectTokenSource::Header("x-user".into()), None);
        let found = user(&header, "s3ssion", "ada");
        assert_eq!(found.id.as_deref(), Some("ada"));
        assert_eq!((found.verified, found.fingerprint), (Some(false), None));
        let cookie = settings(SubjectTokenSource::Cookie("sid".into()), None);
        let found = user(&cookie, "s3ssion", "ada");
        assert_eq!((found.id, found.problem), (None, None));
        assert!(found.fingerprint.is_some());
    }

    #[test]
    fn a_claim_names_the_user_without_being_verified() {
        let cookie = settings(SubjectTokenSource::Cookie("sid".into()), Some("email"));
        let found = user(&cookie, &jwt(r#"{"email":"ada@example.com"}"#), "");
        assert_eq!(found.id.as_deref(), Some("ada@example.com"));
        assert_eq!(found.verified, Some(false));
        let header = settings(SubjectTokenSource::Header("x-user".into()), Some("uid"));
        let found = user(&header, "", &format!("Bearer {}", jwt(r#"{"uid":7}"#)));
        assert_eq!(found.id.as_deref(), Some("7"));
    }

    #[test]
    fn what_is_no_token_or_has_no_such_claim_is_said_without_the_value() {
        let cookie = settings(SubjectTokenSource::Cookie("sid".into()), Some("email"));
        let no_json = format!("e30.{}.x", URL_SAFE_NO_PAD.encode("no JSON"));
        let others = [jwt("{}"), jwt(r#"{"email":{"a":1}}"#), jwt(r#"{"email":""}"#)];
        let none = [
            "s3ssion".to_owned(),
            "a.b".to_owned(),
            "a.?.c".to_owned(),
            no_json,
        ];
        let found = none.map(|value| user(&cookie, &value, ""));
        assert!(
            found
                .iter()
                .all(|user| user.problem == Some(UserProblem::NotAJwt))
        );
        assert!(
            found
                .iter()
                .all(|user| user.fingerprint.is_some() && user.id.is_none())
        );
        let found = others.map(|value| user(&cookie, &value, ""));
        assert!(
            found
                .iter()
                .all(|user| user.problem == Some(UserProblem::ClaimMissing))
        );
        assert_eq!(user(&cookie, "", "").problem, Some(UserProblem::Missing));
        let nothing = identify(&cookie, None, None, &fingerprints(), 0).unwrap();
        assert_eq!(nothing.problem, Some(UserProblem::Missing));
    }
}
