//! Key files of service accounts, as identity providers hand them out: a private key in JSON, with what it is announced
//! by and whose it is.

use secrecy::SecretString;
use serde::Deserialize;

/// A key file of a service account.
#[derive(Debug)]
pub struct ServiceAccountKey {
    /// PEM.
    pub private_key: SecretString,
    pub key_id: String,
    /// Issuer and subject of the assertions that it signs.
    pub account: String,
    /// Whether the authorization server reads the scope in the assertion, and not beside it.
    pub scope_is_claim: bool,
}

/// The files that are known, by their member `type`.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum KeyFile {
    /// Google Cloud.
    #[serde(rename = "service_account")]
    Google {
        private_key: SecretString,
        private_key_id: String,
        client_email: String,
    },
    /// Zitadel.
    #[serde(rename = "serviceaccount", rename_all = "camelCase")]
    Zitadel {
        key: SecretString,
        key_id: String,
        user_id: String,
    },
}

impl ServiceAccountKey {
    /// `None`: the text is no such file, and a key by itself if anything.
    pub fn read(text: &str) -> Option<Self> {
        Some(
            match serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()? {
                KeyFile::Google {
                    private_key,
                    private_key_id,
                    client_email,
                } => Self {
                    private_key,
                    key_id: private_key_id,
                    account: client_email,
                    scope_is_claim: true,
                },
                KeyFile::Zitadel { key, key_id, user_id } => Self {
                    private_key: key,
                    key_id,
                    account: user_id,
                    scope_is_claim: false,
                },
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_the_files_as_they_are_handed_out() {
        // https://cloud.google.com/iam/docs/keys-create-delete
        let google = json!({
            "type": "service_account", "project_id": "p", "private_key_id": "k-1", "private_key": "-----BEGIN",
            "client_email": "tools@p.iam.gserviceaccount.com", "client_id": "1",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
        });
        let key = ServiceAccountKey::read(&google.to_string()).unwrap();
        assert_eq!(
            (key.key_id.as_str(), key.account.as_str(), key.scope_is_claim),
            ("k-1", "tools@p.iam.gserviceaccount.com", true)
        );
        assert_eq!(key.private_key.expose_secret(), "-----BEGIN");
        // https://zitadel.com/docs/guides/integrate/service-users/private-key-jwt
        let zitadel = json!({"type": "serviceaccount", "keyId": "7", "key": "-----BEGIN RSA", "userId": "9"});
        let key = ServiceAccountKey::read(&zitadel.to_string()).unwrap();
        assert_eq!(
            (key.key_id.as_str(), key.account.as_str(), key.scope_is_claim),
            ("7", "9", false)
        );
    }

    #[test]
    fn what_is_no_such_file_is_left_to_others() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----",
            r#"{"kty":"RSA"}"#,
            r#"{"type":"authorized_user","client_id":"x"}"#,
            r#"{"type":"service_account"}"#,
            "[1]",
        ] {
            assert!(ServiceAccountKey::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_output_never_holds_the_key() {
        let file = json!({"type": "serviceaccount", "keyId": "7", "key": "t0p-s3cret", "userId": "9"});
        let key = ServiceAccountKey::read(&file.to_string()).unwrap();
        assert!(!format!("{key:?}").contains("t0p-s3cret"));
    }
}
