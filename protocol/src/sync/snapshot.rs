//! Downwards: the whole state of one pod, with its servers and their credentials.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::credential::{Credential, expose, expose_some};
use super::lenient;
use super::report::{Capability, RejectionCause};
use super::route::Route;

/// Everything the pod of one sidecar is entitled to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", try_from = "lenient::Line")]
pub struct Snapshot {
    /// Opaque; equal revisions of one stream mean equal content. Echoed in [`Report::applied`].
    pub revision: String,
    /// PEM certificates to trust the operator by from the next connection on, so that its CA can change.
    pub operator_ca: String,
    /// What the operator reads besides what every version reads. None of one that is too old to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// By which values that are as good as a password are fingerprinted in the audit log: any text, the same for
    /// all pods of a namespace. A sidecar without one makes its own.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "expose_some"
    )]
    pub fingerprint_key: Option<SecretString>,
    /// Sorted by [`Route::server`], each of which occurs once.
    pub servers: Vec<Server>,
    /// The sender's time in Unix seconds, by which the ends of tokens are to be understood: the reader's clock may differ.
    /// Absent from older senders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<i64>,
    /// What stood in the line besides `servers` and could not be read. Never sent.
    #[serde(skip_serializing)]
    pub unreadable: Vec<UnreadableServer>,
}

/// A server whose entry the reader does not understand, as one of a newer version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableServer {
    /// [`Route::server`], if that could be read.
    pub server: Option<String>,
    /// What is not understood.
    pub part: UnreadablePart,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnreadablePart {
    /// The server is left out of [`Snapshot::servers`].
    Route,
    /// The server is there, without a new credential; one that the sidecar still has serves on.
    Credential,
}

/// One MCP server and the credential for it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    #[serde(flatten)]
    pub route: Route,
    /// `metadata.uid` of the `McpServerAuth`. A token of another one, which had the same name, does not serve on. Absent from
    /// older senders, and of a resource that is in no cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_uid: Option<String>,
    pub credential: Credential,
    /// Shown to the MCP server in the TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// Through which the MCP server is reached. The operator has decided that it applies to the server's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
    /// At which addresses the host may be, by the policy of the operator's administrator. Absent from older senders, and where
    /// there is no administrator: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<ServerAddresses>,
    /// The token in use was rejected, and there is no better one for now: no call need wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<DeclinedRefresh>,
}

/// Which of the addresses that the name of an MCP server resolves to the sidecar may connect to: link-local ones and those of
/// clouds' metadata services never.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ServerAddresses {
    /// Private ones too, and those of LiteLLM's own pod.
    Any,
    /// Private ones too, but not loopback.
    NotLoopback,
    /// Only those that everyone can reach.
    Public,
}

/// The operator's answer to a [`RejectedToken`] that it can do nothing about now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclinedRefresh {
    /// Identifier of the token that stays in use.
    pub token: String,
    /// What was demanded. Scopes: none of these, and of no greater set, is granted.
    pub why: RejectionCause,
    /// For people; never holds a secret.
    pub message: String,
}

/// A TLS client certificate. Two are equal if chain and key are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// PEM, the leaf first.
    pub chain: String,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    #[serde(serialize_with = "expose")]
    pub key: SecretString,
}

/// An HTTP proxy that opens tunnels (CONNECT, RFC 9110 section 9.3.6). Two are equal if URL and credentials are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressProxy {
    /// `http` or `https`, with host and port alone.
    pub url: String,
    /// Value of `Proxy-Authorization`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "expose_some"
    )]
    pub authorization: Option<SecretString>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let key = |snapshot: &Self| {
            let key = snapshot.fingerprint_key.as_ref();
            key.map(|key| key.expose_secret().to_owned())
        };
        (&self.revision, &self.operator_ca, &self.servers, &self.unreadable)
            == (
                &other.revision,
                &other.operator_ca,
                &other.servers,
                &other.unreadable,
            )
            && key(self) == key(other)
    }
}

impl PartialEq for EgressProxy {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |proxy: &Self| {
            let authorization = proxy.authorization.as_ref();
            authorization.map(|value| value.expose_secret().to_owned())
        };
        self.url == other.url && exposed(self) == exposed(other)
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.expose_secret() == other.key.expose_secret()
    }
}
