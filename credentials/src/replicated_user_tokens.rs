//! Replicated user tokens: users' own tokens as each replica of the operator knows them, so that the next leader goes on
//! with those that its predecessor exchanged. The leader records each that it gets, followers take them over, and an
//! exchanger looks here before it makes a request.
//!
//! A user is named by a keyed hash of the subject token. The key is the leader's, and followers get it with the first
//! token: without it a hash says nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_oauth::Token;
use mcp_auth_protocol::sync::Credential;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::bearer::bearer;
use crate::credential_identity::CredentialIdentity;
use crate::resource_ref::ResourceRef;
use crate::token_details::{ReplicatedCredentialError, TokenDetails};
use crate::token_seed::TokenSeed;

/// Tokens that are remembered, of all resources. Where there are too many, the namespace that has most gives up the one that
/// was recorded first.
const MAX_TOKENS: usize = 10_000;
/// Bytes of them.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct ReplicatedUserTokens {
    known: Arc<Mutex<Known>>,
    /// For other replicas: number of the last change.
    revision: Arc<watch::Sender<u64>>,
}

struct Known {
    key: SecretString,
    /// The limits of the chart, where they are lower than what is remembered anyway.
    max_of_namespace: usize,
    max_tokens: usize,
    tokens: HashMap<UserKey, KnownToken>,
    /// The same in the order that they were recorded in.
    order: BTreeMap<u64, UserKey>,
    of_namespaces: HashMap<String, OfNamespace>,
    bytes: usize,
}

#[derive(Default)]
struct OfNamespace {
    /// Of its tokens, in the order that they were recorded in.
    revisions: BTreeSet<u64>,
    bytes: usize,
}

/// A user at one resource.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct UserKey {
    resource: ResourceRef,
    user: String,
}

struct KnownToken {
    /// [`CredentialIdentity::shortened`]
    identity: CredentialIdentity,
    token: Arc<Token>,
    revision: u64,
}

/// A user's token on its way to another replica. No `Debug`: it holds the token.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedUserToken {
    /// What the users' names are hashed with.
    key: SecretText,
    namespace: String,
    name: String,
    user: String,
    /// [`CredentialIdentity::digest`]
    identity: String,
    /// Of the resource. Absent of older replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_uid: Option<String>,
    credential: Credential,
    token: TokenDetails,
}

/// A secret that is told to another replica.
#[derive(Deserialize, Serialize)]
#[serde(transparent)]
struct SecretText(String);

/// The users' tokens of one resource, as it is now.
#[derive(Clone)]
pub struct UserTokenScope {
    tokens: ReplicatedUserTokens,
    resource: ResourceRef,
    /// [`CredentialIdentity::shortened`]
    identity: CredentialIdentity,
}

impl Default for ReplicatedUserTokens {
    fn default() -> Self {
        let key: [u8; 32] = rand::random();
        Self {
            known: Arc::new(Mutex::new(Known {
                key: hex(&key).into(),
                max_of_namespace: MAX_TOKENS,
                max_tokens: MAX_TOKENS,
                tokens: HashMap::new(),
                order: BTreeMap::new(),
                of_namespaces: HashMap::new(),
                bytes: 0,
            })),
            revision: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl ReplicatedUserTokens {
    /// No more of one namespace than this, and of all of them than that: what an exchanger gives up is not to be kept here.
    pub fn set_limits(&self, of_namespace: usize, total: usize) {
        let mut known = self.known.lock();
        known.max_of_namespace = of_namespace;
        known.max_tokens = total.min(MAX_TOKENS);
    }

    pub fn of_resource(&self, resource: &ResourceRef, identity: &CredentialIdentity) -> UserTokenScope {
        UserTokenScope {
            tokens: self.clone(),
            resource: resource.clone(),
            identity: identity.shortened(),
        }
    }

    /// The credential that was exchanged for this user at a resource as it is now, if it is not over.
    pub fn credential(
        &self,
        resource: &McpServerAuth,
        subject: &SecretString,
        now: Timestamp,
    ) -> Option<Credential> {
        let identity = CredentialIdentity::for_resource(resource);
        let scope = self.of_resource(&ResourceRef::from(resource), &identity);
        scope.find(subject, now).map(|token| bearer(&token))
    }

    /// Tells of each token that is recorded.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What was recorded since this revision and is not over, the oldest first.
    pub fn recorded_since(&self, revision: u64) -> Vec<ReplicatedUserToken> {
        let now = Timestamp::now();
        let known = self.known.lock();
        let newer = known.order.range(revision + 1..);
        newer
            .filter_map(|(_, key)| {
                let recorded = known.tokens.get(key)?;
                (!recorded.token.is_expired(now)).then(|| ReplicatedUserToken {
                    key: SecretText(known.key.expose_secret().to_owned()),
                    namespace: key.resource.namespace.clone(),
                    name: key.resource.name.clone(),
                    user: key.user.clone(),
                    identity: recorded.identity.request().to_owned(),
                    resource_uid: recorded.identity.resource_uid().map(str::to_owned),
                    credential: bearer(&recorded.token),
                    token: TokenDetails::from(&TokenSeed::of_token(Arc::clone(&recorded.token))),
                })
            })
            .collect()
    }

    /// Takes over what the leader has recorded, and how it names users.
    pub fn take_over(&self, replicated: ReplicatedUserToken) -> Result<(), ReplicatedCredentialError> {
        let seed = replicated.token.seed(&replicated.credential)?;
        let Some(seed) = seed else { return Ok(()) };
        let mut known = self.known.lock();
        if known.key.expose_secret() != replicated.key.0 {
            // Whatever is known by another key is nobody's any more.
            known.clear();
            known.key = replicated.key.0.into();
        }
        let key = UserKey {
            resource: ResourceRef {
                namespace: replicated.namespace,
                name: replicated.name,
            },
            user: replicated.user,
        };
        let identity = CredentialIdentity::from_parts(replicated.identity, replicated.resource_uid);
        self.record(&mut known, key, identity, seed.token);
        Ok(())
    }

    /// The resource is gone, and what was for it.
    pub fn forget(&self, resource: &ResourceRef) {
        let mut known = self.known.lock();
        let gone: Vec<UserKey> = known
            .tokens
            .keys()
            .filter(|key| key.resource == *resource)
            .cloned()
            .collect();
        for key in gone {
            known.remove(&key);
        }
    }

    fn record(&self, known: &mut Known, key: UserKey, identity: CredentialIdentity, token: Arc<Token>) {
        known.remove(&key);
        self.revision.send_modify(|revision| *revision += 1);
        let revision = *self.revision.borrow();
        known.bytes += bytes(&token);
        let namespace = key.resource.namespace.clone();
        let of_namespace = known.of_namespaces.entry(namespace).or_default();
        of_namespace.revisions.insert(revision);
        of_namespace.bytes += bytes(&token);
        known.order.insert(revision, key.clone());
        let recorded_for = key.resource.namespace.clone();
        known.tokens.insert(
            key,
            KnownToken {
                identity,
                token,
                revision,
            },
        );
        while let Some(surplus) = known.surplus(&recorded_for) {
            known.remove(&surplus);
        }
    }
}

impl UserTokenScope {
    fn key(&self, known: &Known, subject: &SecretString) -> UserKey {
        let mut hash = Sha256::new();
        hash.update(known.key.expose_secret());
        hash.update(subject.expose_secret());
        let hash: [u8; 32] = hash.finalize().into();
        UserKey {
            resource: self.resource.clone(),
            user: hex(&hash),
        }
    }

    /// The token that was exchanged for this subject, by whichever replica, if it is not over.
    pub fn find(&self, subject: &SecretString, now: Timestamp) -> Option<Arc<Token>> {
        let known = self.tokens.known.lock();
        let recorded = known.tokens.get(&self.key(&known, subject))?;
        let is_of_resource = recorded.identity.is_same_credential(&self.identity);
        let is_usable = is_of_resource && !recorded.token.is_expired(now);
        is_usable.then(|| Arc::clone(&recorded.token))
    }

    pub fn record(&self, subject: &SecretString, token: Arc<Token>) {
        let mut known = self.tokens.known.lock();
        let key = self.key(&known, subject);
        let is_known = known
            .tokens
            .get(&key)
            .is_some_and(|recorded| recorded.token.id == token.id && recorded.identity == self.identity);
        if !is_known {
            self.tokens.record(&mut known, key, self.identity.clone(), token);
        }
    }
}

impl Known {
    /// What has to go: of the namespace that something was recorded for, where that has more than it may, or else of the one
    /// that has most of what there is too much of.
    fn surplus(&self, recorded_for: &str) -> Option<UserKey> {
        let of_recorded = self.of_namespaces.get(recorded_for);
        if let Some(exceeded) = of_recorded.filter(|of| of.revisions.len() > self.max_of_namespace) {
            return self.order.get(exceeded.revisions.first()?).cloned();
        }
        let too_many = self.tokens.len() > self.max_tokens;
        if !too_many && self.bytes <= MAX_BYTES {
            return None;
        }
        let namespaces = self.of_namespaces.values();
        let largest = namespaces.max_by_key(|of_namespace| match too_many {
            true => of_namespace.revisions.len(),
            false => of_namespace.bytes,
        })?;
        self.order.get(largest.revisions.first()?).cloned()
    }

    fn remove(&mut self, key: &UserKey) {
        if let Some(removed) = self.tokens.remove(key) {
            self.order.remove(&removed.revision);
            self.bytes -= bytes(&removed.token);
            let namespace = &key.resource.namespace;
            if let Some(of_namespace) = self.of_namespaces.get_mut(namespace) {
                of_namespace.revisions.remove(&removed.revision);
                of_namespace.bytes -= bytes(&removed.token);
                if of_namespace.revisions.is_empty() {
                    self.of_namespaces.remove(namespace);
                }
            }
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.order.clear();
        self.of_namespaces.clear();
        self.bytes = 0;
    }
}

/// Of what a server may make long.
fn bytes(token: &Token) -> usize {
    token.access_token.secret().len() + token.scope.as_ref().map_or(0, String::len)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use mcp_auth_oauth::{AccessToken, TokenType};

    use super::*;

    fn token(id: &str, life: i64) -> Arc<Token> {
        let now = Timestamp::now();
        Arc::new(Token {
            id: id.into(),
            access_token: AccessToken::new(format!("access-{id}")),
            token_type: TokenType::Bearer,
            proof_key: None,
            by_alternate_secret: false,
            certificate_bound: false,
            mismatch: None,
            claims: None,
            server: None,
            issued_at: now,
            expires_at: Some(now + SignedDuration::from_secs(life)),
            scope: None,
        })
    }

    fn scope(tokens: &ReplicatedUserTokens, name: &str, url: &str) -> UserTokenScope {
        scope_in(tokens, "apps", name, url)
    }

    fn scope_in(tokens: &ReplicatedUserTokens, namespace: &str, name: &str, url: &str) -> UserTokenScope {
        let resource: mcp_auth_crds::McpServerAuth = serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "server": {"name": "tools", "url": url},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            },
        }))
        .unwrap();
        tokens.of_resource(
            &ResourceRef::from(&resource),
            &CredentialIdentity::for_resource(&resource),
        )
    }

    fn replicate(from: &ReplicatedUserTokens, since: u64, to: &ReplicatedUserTokens) -> usize {
        let lines = from.recorded_since(since);
        let count = lines.len();
        for replicated in lines {
            let line = serde_json::to_string(&replicated).unwrap();
            to.take_over(serde_json::from_str(&line).unwrap()).unwrap();
        }
        count
    }

    fn id(scope: &UserTokenScope, subject: &str) -> Option<String> {
        let token = scope.find(&subject.into(), Timestamp::now());
        token.map(|token| token.id.clone())
    }

    const URL: &str = "https://tools.example.com/mcp";

    #[test]
    fn a_follower_finds_what_the_leader_recorded_for_this_user_resource_and_url_only() {
        let (leader, follower) = (ReplicatedUserTokens::default(), ReplicatedUserTokens::default());
        scope(&leader, "tools", URL).record(&"alice".into(), token("1", 600));
        scope(&leader, "tools", URL).record(&"over".into(), token("2", -1));
        assert_eq!(replicate(&leader, 0, &follower), 1, "what is over is not told");
        assert_eq!(id(&scope(&follower, "tools", URL), "alice").as_deref(), Some("1"));
        assert_eq!(id(&scope(&follower, "tools", URL), "bob"), None);
        assert_eq!(id(&scope(&follower, "other", URL), "alice"), None);
        assert_eq!(
            id(
                &scope(&follower, "tools", "https://elsewhere.example.com/mcp"),
                "alice"
            ),
            None
        );
        follower.forget(&scope(&follower, "tools", URL).resource);
        assert_eq!(id(&scope(&follower, "tools", URL), "alice"), None);
    }

    #[test]
    fn a_users_token_is_not_for_a_resource_that_was_created_anew() {
        let (leader, follower) = (ReplicatedUserTokens::default(), ReplicatedUserTokens::default());
        let of = |tokens: &ReplicatedUserTokens, uid: &str| {
            let mut scope = scope(tokens, "tools", URL);
            let request = scope.identity.request().to_owned();
            scope.identity = CredentialIdentity::from_parts(request, Some(uid.into()));
            scope
        };
        of(&leader, "1").record(&"alice".into(), token("1", 600));
        replicate(&leader, 0, &follower);
        assert_eq!(id(&of(&follower, "1"), "alice").as_deref(), Some("1"));
        assert_eq!(id(&of(&follower, "2"), "alice"), None);
        scope(&leader, "tools", URL).record(&"bob".into(), token("2", 600));
        replicate(&leader, 0, &follower);
        assert_eq!(
            id(&of(&follower, "2"), "bob").as_deref(),
            Some("2"),
            "of a replica that tells no uid"
        );
    }

    #[test]
    fn what_is_new_is_told_once_and_the_newest_token_counts() {
        let (leader, follower) = (ReplicatedUserTokens::default(), ReplicatedUserTokens::default());
        let tools = scope(&leader, "tools", URL);
        tools.record(&"alice".into(), token("1", 600));
        tools.record(&"alice".into(), token("1", 600));
        assert_eq!(replicate(&leader, 0, &follower), 1);
        let seen = *leader.subscribe().borrow();
        tools.record(&"alice".into(), token("2", 600));
        assert_eq!(replicate(&leader, seen, &follower), 1);
        assert_eq!(id(&scope(&follower, "tools", URL), "alice").as_deref(), Some("2"));
    }

    #[test]
    fn the_first_ones_go_where_there_are_too_many() {
        let tokens = ReplicatedUserTokens::default();
        let tools = scope(&tokens, "tools", URL);
        for user in 0..=MAX_TOKENS {
            tools.record(&user.to_string().into(), token(&user.to_string(), 600));
        }
        assert_eq!(id(&tools, "0"), None);
        assert!(id(&tools, "1").is_some());
        assert_eq!(tokens.known.lock().order.len(), MAX_TOKENS);
    }

    #[test]
    fn a_namespace_with_too_many_tokens_displaces_its_own_and_no_other_namespaces() {
        let tokens = ReplicatedUserTokens::default();
        let small = scope_in(&tokens, "small", "tools", URL);
        small.record(&"alice".into(), token("first", 600));
        let large = scope_in(&tokens, "large", "tools", URL);
        for user in 0..MAX_TOKENS + 10 {
            large.record(&user.to_string().into(), token(&user.to_string(), 600));
        }
        assert_eq!(id(&small, "alice").as_deref(), Some("first"));
        assert_eq!(id(&large, "0"), None);
        assert_eq!(tokens.known.lock().tokens.len(), MAX_TOKENS);
        small.tokens.forget(&large.resource);
        let known = tokens.known.lock();
        assert_eq!((known.tokens.len(), known.of_namespaces.len()), (1, 1));
    }

    #[test]
    fn no_more_is_kept_for_the_next_leader_than_a_namespace_may_have() {
        let tokens = ReplicatedUserTokens::default();
        tokens.set_limits(2, 3);
        let [crowd, quiet] = ["crowd", "quiet"].map(|namespace| scope_in(&tokens, namespace, "tools", URL));
        quiet.record(&"alice".into(), token("first", 600));
        for user in 0..5 {
            crowd.record(&user.to_string().into(), token(&user.to_string(), 600));
        }
        assert_eq!(id(&crowd, "2"), None);
        assert!(id(&crowd, "3").is_some() && id(&crowd, "4").is_some());
        assert_eq!(id(&quiet, "alice").as_deref(), Some("first"));
        quiet.record(&"bob".into(), token("second", 600));
        assert_eq!(tokens.known.lock().tokens.len(), 3, "of both together");
    }

    #[test]
    fn neither_a_user_nor_what_names_one_is_told_in_the_clear() {
        let leader = ReplicatedUserTokens::default();
        scope(&leader, "tools", URL).record(&"alice-subject-token".into(), token("1", 600));
        let line = serde_json::to_string(&leader.recorded_since(0)[0]).unwrap();
        assert!(!line.contains("alice-subject-token"), "{line}");
    }
}
