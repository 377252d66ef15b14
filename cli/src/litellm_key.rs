//! LiteLLM's key, by which it is called as a user calls it: from a file, or from a Secret beside LiteLLM. It goes into LiteLLM's
//! pod and into no message.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::SecretString;

use crate::cluster::Cluster;
use crate::error::CliError;
use crate::kubeconfig::reading;
use crate::lookup::{Lookup, get};

/// What to do where none is given, as far as a finding says it.
pub const HOW_TO_GIVE: &str = "give a key of LiteLLM by --litellm-key-secret or --litellm-key-file, or to helm test by the value \
                               helmTest.litellmKeySecret";
/// Keys of LiteLLM have some thirty characters, and JSON Web Tokens some thousands.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// A key of a Secret, `NAME/KEY` on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretKey {
    pub name: String,
    pub key: String,
}

/// Where the key is.
#[derive(Clone, Debug)]
pub enum KeySource {
    None,
    Given(SecretString),
    /// In the namespace of each LiteLLM.
    Secret {
        secret: SecretKey,
        /// No namespace was named, so one without this Secret is of others, who keep the key elsewhere.
        all_namespaces: bool,
    },
}

/// The key for one namespace.
#[derive(Clone, Debug)]
pub enum LiteLlmKey {
    NotGiven,
    Given(SecretString),
    /// What the command line names is not there, or is no key.
    Unusable(String),
    /// It could not be looked up.
    Unknown(String),
}

/// The keys, each looked up once.
pub struct LiteLlmKeys<'a> {
    cluster: &'a Cluster,
    source: &'a KeySource,
    of_namespaces: BTreeMap<String, LiteLlmKey>,
}

impl FromStr for SecretKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        let parts = parts.filter(|(name, key)| !name.is_empty() && !key.is_empty() && !key.contains('/'));
        let (name, key) = parts.ok_or(
            "must be NAME/KEY, the name of a Secret in LiteLLM's namespace and a key of it, such as litellm/master-key",
        )?;
        Ok(Self {
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl KeySource {
    /// Reads the file, if there is one.
    pub fn new(
        file: Option<&Path>,
        secret: Option<&SecretKey>,
        all_namespaces: bool,
    ) -> Result<Self, CliError> {
        let Some(path) = file else {
            return Ok(secret.map_or(Self::None, |secret| Self::Secret {
                secret: secret.clone(),
                all_namespaces,
            }));
        };
        let failed = |problem: String| CliError::LiteLlmKey {
            path: path.to_owned(),
            problem,
        };
        let text = std::fs::read(path).map_err(|error| failed(reading(&error)))?;
        let key = key(&text).map_err(|problem| failed(format!("it {problem}")))?;
        Ok(Self::Given(key))
    }
}

impl<'a> LiteLlmKeys<'a> {
    pub fn new(cluster: &'a Cluster, source: &'a KeySource) -> Self {
        Self {
            cluster,
            source,
            of_namespaces: BTreeMap::new(),
        }
    }

    pub async fn of_namespace(&mut self, namespace: &str) -> Result<LiteLlmKey, CliError> {
        let (secret, all_namespaces) = match self.source {
            KeySource::None => return Ok(LiteLlmKey::NotGiven),
            KeySource::Given(key) => return Ok(LiteLlmKey::Given(key.clone())),
            KeySource::Secret {
                secret,
                all_namespaces,
            } => (secret, *all_namespaces),
        };
        if let Some(known) = self.of_namespaces.get(namespace) {
            return Ok(known.clone());
        }
        let found = self.look_up(namespace, secret).await?;
        let found = judge(found, namespace, secret, all_namespaces);
        self.of_namespaces.insert(namespace.to_owned(), found.clone());
        Ok(found)
    }

    async fn look_up(&self, namespace: &str, secret: &SecretKey) -> Result<Lookup<Secret>, CliError> {
        let api = Api::<Secret>::namespaced(self.cluster.client.clone(), namespace);
        get(self.cluster, &api, &secret.name).await
    }
}

fn judge(found: Lookup<Secret>, namespace: &str, secret: &SecretKey, all_namespaces: bool) -> LiteLlmKey {
    let SecretKey { name, key: of } = secret;
    let problem = |problem: String| format!("--litellm-key-secret: {problem}");
    let missing = |what: String| match all_namespaces {
        true => LiteLlmKey::Unknown(problem(what)),
        false => LiteLlmKey::Unusable(problem(what)),
    };
    match found {
        Lookup::Unknown(why) => LiteLlmKey::Unknown(format!("{why} in the namespace {namespace}")),
        Lookup::Missing => missing(format!("the namespace {namespace} has no Secret {name}")),
        Lookup::Found(found) => match found.data.unwrap_or_default().remove(of) {
            None => missing(format!("the Secret {namespace}/{name} has no key {of}")),
            Some(value) => key(&value.0).map_or_else(
                |what| {
                    let what = format!("of the Secret {namespace}/{name} the key {of} {what}");
                    LiteLlmKey::Unusable(problem(what))
                },
                LiteLlmKey::Given,
            ),
        },
    }
}

/// The key in a text that may end with a line break, or what is wrong with it.
fn key(text: &[u8]) -> Result<SecretString, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "is no text")?.trim_end();
    match text {
        "" => Err("is empty"),
        text if text.contains('\n') => Err("has more than one line, and has to hold LiteLLM's key alone"),
        text if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("has spaces, control characters or others than ASCII, which no key of LiteLLM has")
        }
        text if text.len() > MAX_KEY_BYTES => {
            Err("is longer than 16 KiB, and has to hold LiteLLM's key alone")
        }
        text => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_is_one_word_and_what_is_none_is_named_without_it() {
        for text in ["sk-key", "sk-key\n", "sk-key \r\n"] {
            assert_eq!(
                key(text.as_bytes()).unwrap().expose_secret(),
                "sk-key",
                "{text:?}"
            );
        }
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for (text, problem) in [
            (&b""[..], "is empty"),
            (b"\n\n", "is empty"),
            (b"sk-key\nsk-other", "more than one line"),
            (b"master_key: sk-key", "has spaces"),
            ("sk-\u{fc}".as_bytes(), "others than ASCII"),
            (b"\xff", "is no text"),
            (long.as_bytes(), "longer than 16 KiB"),
        ] {
            let error = key(text).unwrap_err();
            assert!(error.contains(problem) && !error.contains("sk-"), "{error}");
        }
    }

    #[test]
    fn a_key_of_a_secret_is_a_name_and_a_key() {
        let read = |text: &str| text.parse::<SecretKey>();
        let expected = SecretKey {
            name: "litellm".to_owned(),
            key: "master-key".to_owned(),
        };
        assert_eq!(read("litellm/master-key"), Ok(expected));
        for text in ["", "litellm", "/key", "litellm/", "llm/litellm/key"] {
            assert!(read(text).unwrap_err().contains("NAME/KEY"), "{text}");
        }
    }

    #[test]
    fn a_namespace_without_the_secret_is_at_fault_only_where_it_was_named() {
        let secret: SecretKey = "litellm/master-key".parse().unwrap();
        let with = |key: &str, value: &[u8]| {
            let value = k8s_openapi::ByteString(value.to_owned());
            Lookup::Found(Secret {
                data: Some(BTreeMap::from([(key.to_owned(), value)])),
                ..Secret::default()
            })
        };
        let judged = |found: Lookup<Secret>, all_namespaces| judge(found, "llm", &secret, all_namespaces);
        for (found, problem) in [
            (Lookup::Missing, "the namespace llm has no Secret litellm"),
            (with("key", b"sk"), "the Secret llm/litellm has no key master-key"),
        ] {
            let named = judged(found.clone(), false);
            assert!(
                matches!(&named, LiteLlmKey::Unusable(why) if why.ends_with(problem)),
                "{named:?}"
            );
            let any = judged(found, true);
            assert!(
                matches!(&any, LiteLlmKey::Unknown(why) if why.ends_with(problem)),
                "{any:?}"
            );
        }
        for all_namespaces in [false, true] {
            let empty = judged(with("master-key", b""), all_namespaces);
            assert!(
                matches!(&empty, LiteLlmKey::Unusable(why) if why.ends_with("is empty")),
                "{empty:?}"
            );
            let given = judged(with("master-key", b"sk"), all_namespaces);
            assert!(matches!(given, LiteLlmKey::Given(_)), "{given:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = KeySource::new(Some(Path::new("/nonexistent/key")), None, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--litellm-key-file /nonexistent/key: there is no such file"
        );
    }
}
