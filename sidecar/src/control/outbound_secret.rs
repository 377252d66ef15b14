//! Outbound secret: what LiteLLM shows the outbound listener with each request. The listener adds the service's token to
//! whatever it takes, and any process of the pod reaches it; so does, through LiteLLM, whoever may have it call a URL of
//! their choice (`/mcp-rest/test/tools/list` of LiteLLM 1.80.17). The overlay gives LiteLLM the secret as a header of each
//! managed server, and nobody else has it.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use mcp_auth_protocol::pod::{OUTBOUND_SECRET_FILE, OUTBOUND_SECRET_HEADER};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::litellm_config::write::write_private;

const HEADER: HeaderName = HeaderName::from_static(OUTBOUND_SECRET_HEADER);

/// 256 bits in base64url.
const BYTES: usize = 32;
const CHARACTERS: usize = 43;

/// Cheap to clone. Debug output does not show it.
#[derive(Clone, Debug)]
pub struct OutboundSecret(SecretString);

impl OutboundSecret {
    /// A new one.
    pub fn generate() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>()).into())
    }

    /// That of an earlier process of the sidecar, which LiteLLM has read, or a new one for this process and later ones.
    /// It lies beside the overlay.
    pub fn resume(overlay: &Path) -> Self {
        let path = overlay.with_file_name(OUTBOUND_SECRET_FILE);
        let earlier = fs::read_to_string(&path).ok();
        if let Some(secret) = earlier.as_deref().and_then(Self::parse) {
            return secret;
        }
        let secret = Self::generate();
        if let Err(error) = write_private(&path, secret.expose()) {
            warn!(
                path = %path.display(), %error,
                "the outbound secret cannot be kept: when the sidecar restarts, LiteLLM's calls to MCP servers are \
                 refused until LiteLLM restarts too; check the volume mounted at that folder"
            );
        }
        secret
    }

    /// `None` unless it is one that [`OutboundSecret::generate`] could have made.
    pub fn parse(text: &str) -> Option<Self> {
        let is_secret = text.len() == CHARACTERS && URL_SAFE_NO_PAD.decode(text).is_ok();
        is_secret.then(|| Self(text.into()))
    }

    /// For the overlay.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether the request states it, and no other beside it. It is taken out of the headers: no server is to see it.
    pub fn take_from(&self, headers: &mut HeaderMap) -> bool {
        let Entry::Occupied(stated) = headers.entry(HEADER) else {
            return false;
        };
        let is_secret = |value: &HeaderValue| is_equal(value.as_bytes(), self.expose().as_bytes());
        let is_stated = stated.iter().all(is_secret);
        stated.remove();
        is_stated
    }
}

/// In the same time wherever they differ, so that the time tells nothing of the secret.
fn is_equal(stated: &[u8], secret: &[u8]) -> bool {
    let ((stated_words, stated_rest), (secret_words, secret_rest)) =
        (stated.as_chunks::<8>(), secret.as_chunks::<8>());
    let in_words = stated_words.iter().zip(secret_words);
    let in_words = in_words.map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
    let in_rest = stated_rest.iter().zip(secret_rest).map(|(a, b)| u64::from(a ^ b));
    let differences = |all: u64, difference: u64| std::hint::black_box(all | difference);
    stated.len() == secret.len() && in_words.chain(in_rest).fold(0, differences) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn stating(values: &[&str]) -> HeaderMap {
        let value = |value: &&str| (HEADER, HeaderValue::from_str(value).unwrap());
        values.iter().map(value).collect()
    }

    #[test]
    fn only_the_secret_itself_counts() {
        let secret = OutboundSecret::generate();
        let text = secret.expose().to_owned();
        for stated in [&[&*text][..], &[&text, &text]] {
            let mut headers = stating(stated);
            assert!(secret.take_from(&mut headers));
            assert!(headers.is_empty());
        }
        let other = OutboundSecret::generate().expose().to_owned();
        for values in [
            &[][..],
            &[""],
            &[&other],
            &[&text[1..]],
            &[&format!("{text}A")],
            &[&text, &other],
        ] {
            let mut headers = stating(values);
            assert!(!secret.take_from(&mut headers), "{values:?}");
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn a_later_process_has_the_same_one_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = folder.path().join("overlay.yaml");
        let first = OutboundSecret::resume(&overlay);
        assert_eq!(OutboundSecret::resume(&overlay).expose(), first.expose());
        let file = folder.path().join(OUTBOUND_SECRET_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        for damaged in ["", "short", &"=".repeat(CHARACTERS)] {
            fs::write(&file, damaged).unwrap();
            let next = OutboundSecret::resume(&overlay);
            assert_eq!(next.expose().len(), CHARACTERS, "{damaged:?} is no secret");
            assert_eq!(OutboundSecret::resume(&overlay).expose(), next.expose());
        }
    }

    #[test]
    fn without_a_folder_there_is_one_all_the_same() {
        let secret = OutboundSecret::resume(Path::new("/does/not/exist/overlay.yaml"));
        assert_eq!(secret.expose().len(), CHARACTERS);
    }

    #[test]
    fn debug_output_does_not_hold_it() {
        let secret = OutboundSecret::generate();
        assert!(!format!("{secret:?}").contains(secret.expose()));
    }
}
