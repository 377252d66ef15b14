//! Resolves references: from keys of Secrets and ConfigMaps to their values, a pure function of what the
//! watches found.

use secrecy::{ExposeSecret, SecretString};

use super::{CONSENT_LABEL, Kind, Lookup, Reference};
use crate::not_served::{NotServedError, NotServedReason};

/// The text that a reference leads to, without the line end that `echo` and editors leave behind it.
pub fn resolve_reference(reference: &Reference, lookup: &Lookup) -> Result<SecretString, NotServedError> {
    let Reference {
        field,
        kind,
        name,
        key,
    } = reference;
    let object = format!("{} {name}", kind.as_str());
    let data = match lookup {
        Lookup::Unknown => {
            return Err(NotServedError::new(
                NotServedReason::Pending,
                format!("{object}, named by {field}, is being read"),
            ));
        }
        Lookup::NotFound => {
            let message = format!("{object}, named by {field}, does not exist in this namespace: create it");
            return Err(NotServedError::new(not_found(*kind), message));
        }
        Lookup::Forbidden { grant } => {
            let way_out = grant.as_ref().map_or_else(
                || "its namespace is not among the operator's, or its role was changed".to_owned(),
                |grant| {
                    format!("in this namespace it has no right to Secrets until somebody grants it: {grant}")
                },
            );
            let message = format!("the operator may not read {object}, named by {field}: {way_out}");
            return Err(NotServedError::new(NotServedReason::Forbidden, message));
        }
        Lookup::NotConsented => {
            let message = format!(
                "{object}, named by {field}, has no label {CONSENT_LABEL}: \"true\", which the administrator of mcp-auth \
                 demands of Secrets that resources use (policy.requireSecretConsent): whoever owns it can allow that by \
                 `kubectl label secret {name} {CONSENT_LABEL}=true`"
            );
            return Err(NotServedError::new(NotServedReason::NotAllowed, message));
        }
        Lookup::Found(data) => data,
    };
    let Some(value) = data.get(key) else {
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        let has = if keys.is_empty() {
            "no keys".to_owned()
        } else {
            format!("the keys {}", keys.join(", "))
        };
        let message = format!("{object}, named by {field}, has no key {key:?}: it has {has}");
        return Err(NotServedError::new(key_not_found(*kind), message));
    };
    let value = value.expose_secret();
    let invalid = |what: &str| {
        let message = format!(
            "key {key:?} of {object}, named by {field}, {what} ({} bytes)",
            value.len()
        );
        Err(NotServedError::new(invalid(*kind), message))
    };
    match std::str::from_utf8(value).map(|text| text.trim_end_matches(['\r', '\n'])) {
        Ok("") => invalid("is empty"),
        Ok(text) => Ok(text.into()),
        Err(_) => invalid("is not text"),
    }
}

/// The same for a value that goes into a header or a form, which must be printable ASCII.
pub fn resolve_printable(reference: &Reference, lookup: &Lookup) -> Result<SecretString, NotServedError> {
    let text = resolve_reference(reference, lookup)?;
    if text.expose_secret().chars().all(|char| matches!(char, ' '..='~')) {
        return Ok(text);
    }
    let message = format!(
        "key {:?} of {} {}, named by {}, holds control characters or characters beyond ASCII ({} bytes): it \
         may have been encoded twice, or be the wrong key (RFC 6749 appendix A)",
        reference.key,
        reference.kind.as_str(),
        reference.name,
        reference.field,
        text.expose_secret().len(),
    );
    Err(NotServedError::new(invalid(reference.kind), message))
}

fn not_found(kind: Kind) -> NotServedReason {
    match kind {
        Kind::Secret => NotServedReason::SecretNotFound,
        Kind::ConfigMap => NotServedReason::ConfigMapNotFound,
    }
}

fn key_not_found(kind: Kind) -> NotServedReason {
    match kind {
        Kind::Secret => NotServedReason::SecretKeyNotFound,
        Kind::ConfigMap => NotServedReason::ConfigMapKeyNotFound,
    }
}

fn invalid(kind: Kind) -> NotServedReason {
    match kind {
        Kind::Secret => NotServedReason::SecretInvalid,
        Kind::ConfigMap => NotServedReason::ConfigMapInvalid,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn reference() -> Reference {
        Reference {
            field: "spec.f",
            kind: Kind::Secret,
            name: "oauth".into(),
            key: "secret".into(),
        }
    }

    fn lookup_of(key: &str, value: &[u8]) -> Lookup {
        Lookup::Found(Arc::new([(key.to_owned(), value.to_vec().into())].into()))
    }

    #[test]
    fn a_line_end_after_the_value_does_not_belong_to_it() {
        let value = resolve_printable(&reference(), &lookup_of("secret", b"s3cret\r\n")).unwrap();
        assert_eq!(value.expose_secret(), "s3cret");
    }

    #[test]
    fn what_is_missing_is_named_with_its_field() {
        let error = resolve_reference(&reference(), &Lookup::NotFound).unwrap_err();
        assert_eq!(error.reason(), "SecretNotFound");
        assert_eq!(
            error.message(),
            "Secret oauth, named by spec.f, does not exist in this namespace: create it"
        );

        let error = resolve_reference(&reference(), &lookup_of("Secret", b"x")).unwrap_err();
        assert_eq!(error.reason(), "SecretKeyNotFound");
        assert_eq!(
            error.message(),
            r#"Secret oauth, named by spec.f, has no key "secret": it has the keys Secret"#
        );
    }

    #[test]
    fn of_a_secret_without_consent_nothing_is_told_but_how_to_give_it() {
        let error = resolve_reference(&reference(), &Lookup::NotConsented).unwrap_err();
        assert_eq!(error.reason(), "NotAllowed");
        let message = error.message();
        assert!(
            message.contains("spec.f")
                && message.contains("kubectl label secret oauth mcpauth.dev/allow=true"),
            "{message}"
        );
        assert!(error.ends_use());
    }

    #[test]
    fn a_value_that_cannot_be_one_is_told_by_its_shape_only() {
        for value in [&b"p\xC3\xA4ss-s3cret"[..], b"two\nlines", b"\xFF\xFE", b"", b"\n"] {
            let error = resolve_printable(&reference(), &lookup_of("secret", value)).unwrap_err();
            assert_eq!(error.reason(), "SecretInvalid");
            assert!(
                error.message().contains(&format!("({} bytes)", value.len())),
                "{}",
                error.message()
            );
            assert!(
                !error.message().contains("s3cret\"") && !error.message().contains("two"),
                "{}",
                error.message()
            );
        }
    }
}
