//! What is registered at a stand-in of an identity provider: the client of a page's resource, and what verifies it.

use std::collections::BTreeMap;

use mcp_auth_tests::jwt;
use mcp_auth_tests::keys::{self, Key};
use mcp_auth_tests::resource::merge;
use mcp_auth_tests::web::Request;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::stand_in::SERVICE_ACCOUNT;

/// What the Secrets of a page's resource hold.
pub struct Credentials {
    pub key: Key,
    /// Of the key, signed by it: PEM.
    certificate: String,
    pub client_secret: String,
}

/// What the provider knows.
#[derive(Clone)]
pub struct Registered {
    /// Empty where the resource names none.
    pub client_id: String,
    client_secret: String,
    key: Value,
    /// The `kid` that the key is announced by; none where the page states none.
    key_id: Option<String>,
    /// `x5t` and `x5t#S256` of the certificate.
    thumbprints: [String; 2],
    /// Microsoft Entra: whose tokens authenticate the client instead.
    pub federated: Option<Federated>,
    /// The key by which the provider itself signs users' tokens.
    pub user_token_key: Option<Value>,
}

/// A federated identity credential of an app registration.
#[derive(Clone)]
pub struct Federated {
    pub issuer: String,
    pub subject: String,
    pub audience: String,
    /// That the issuer publishes.
    pub keys: Vec<Value>,
}

impl Credentials {
    /// `client`: whom they are of.
    pub async fn new(client: &str) -> Self {
        let key = Key::new("RS256", client).await;
        Self {
            certificate: key.self_signed().await,
            key,
            client_secret: format!("s3cret of {client}"),
        }
    }

    /// Writes the Secrets that an `oauth2` block names, each by the name of its key.
    pub async fn write(&self, world: &World, oauth2: &Value) {
        let google = json!({
            "type": "service_account", "client_email": SERVICE_ACCOUNT, "private_key_id": "k",
            "private_key": self.key.private_pem,
        });
        let zitadel =
            json!({"type": "serviceaccount", "keyId": "k", "userId": "u", "key": self.key.private_pem});
        let mut secrets = BTreeMap::<String, Value>::new();
        for reference in references(oauth2) {
            let secret = secrets
                .entry(reference["name"].as_str().unwrap().to_owned())
                .or_insert(json!({}));
            let data = match reference["key"].as_str() {
                Some("client-secret") => json!({"client-secret": self.client_secret}),
                Some("key.pem") => json!({"key.pem": self.key.private_pem}),
                Some("key.json") if oauth2["provider"] == "Google" => json!({"key.json": google.to_string()}),
                Some("key.json") => json!({"key.json": zitadel.to_string()}),
                Some(other) => panic!("nothing is known of {other}"),
                None => json!({"tls.crt": self.certificate, "tls.key": self.key.private_pem}),
            };
            merge(secret, data);
        }
        for (name, data) in secrets {
            world.apply_secret(&name, json!({"stringData": data})).await;
        }
    }
}

impl Registered {
    /// The client of this `oauth2` block, with these credentials.
    pub async fn new(oauth2: &Value, credentials: &Credentials) -> Self {
        let stated = ["/clientAuthentication/privateKeyJwt/keyId", "/jwtBearer/keyId"];
        let stated = stated.iter().find_map(|field| oauth2.pointer(field)?.as_str());
        let is_key_file = oauth2
            .pointer("/jwtBearer/keyRef/key")
            .is_some_and(|key| key == "key.json");
        Self {
            client_id: oauth2["clientId"].as_str().unwrap_or_default().to_owned(),
            client_secret: credentials.client_secret.clone(),
            key: credentials.key.jwk().await,
            key_id: stated.or(is_key_file.then_some("k")).map(str::to_owned),
            thumbprints: keys::thumbprints(&credentials.certificate).await,
            federated: None,
            user_token_key: None,
        }
    }

    /// The claims of an assertion that the registered key signed now, and that is announced by its name.
    pub fn signed(&self, assertion: &str) -> Option<Value> {
        let is_named = match &self.key_id {
            Some(key_id) => jwt::header(assertion)["kid"] == **key_id,
            None => true,
        };
        is_named.then(|| jwt::verify(assertion, &self.key).ok()).flatten()
    }

    /// Whether a claim names the client.
    pub fn is_client(&self, claim: &Value) -> bool {
        !self.client_id.is_empty() && claim == &*self.client_id
    }

    /// Whether the request shows the client's secret.
    pub fn has_secret(&self, request: &Request) -> bool {
        request.client() == (self.client_id.clone(), self.client_secret.clone())
    }

    /// Whether a header names the registered certificate by either thumbprint, and by none that is another's.
    pub fn has_certificate(&self, header: &Value) -> bool {
        let [sha1, sha256] = &self.thumbprints;
        let named = [(&header["x5t"], sha1), (&header["x5t#S256"], sha256)];
        let mut stated = named.iter().filter(|(stated, _)| !stated.is_null()).peekable();
        stated.peek().is_some() && stated.all(|(stated, registered)| *stated == &***registered)
    }
}

/// The objects that are the value of a field whose name ends in `Ref`, but those that name a ConfigMap.
fn references(value: &Value) -> Vec<Value> {
    let Some(object) = value.as_object() else {
        return Vec::new();
    };
    let below =
        object.iter().flat_map(
            |(field, value)| match field.ends_with("Ref") && field != "configMapKeyRef" {
                true => vec![value.clone()],
                false => references(value),
            },
        );
    below.collect()
}
