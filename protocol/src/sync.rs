//! The sync stream: one HTTP/2 `POST` to [`PATH`] for each sidecar, authenticated by its pod-bound
//! ServiceAccount token as bearer. Both bodies stay open and carry newline-delimited JSON, the whole state in
//! each line: [`Report`] upwards, [`Snapshot`] downwards. An empty line is a heartbeat: downwards, one line
//! at least comes within [`HEARTBEAT`](crate::timeouts::HEARTBEAT).
//!
//! Operator and sidecar may be one minor version apart. Fields that one of them does not know are ignored, and
//! what it cannot read costs the entry that it stands in and never the whole line ([`lenient`]).

mod lenient;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::reachability::ServerReachability;

/// Path of the sync endpoint.
pub const PATH: &str = "/v1/sync";
/// Content type of both bodies.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// Everything the pod of one sidecar is entitled to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", from = "lenient::Snapshot")]
pub struct Snapshot {
    /// Opaque; equal revisions of one stream mean equal content. Echoed in [`Report::applied`].
    pub revision: String,
    /// PEM certificates to trust the operator by from the next connection on, so that its CA can change.
    pub operator_ca: String,
    /// Sorted by [`Route::server`], each of which occurs once.
    pub servers: Vec<Server>,
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
    pub credential: Credential,
    /// Shown to the MCP server in the TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// The token in use was rejected, and there is no better one for now: no call need wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<DeclinedRefresh>,
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

/// What is known of an MCP server without any secret. Also travels in the pod, from admission on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name of the `McpServerAuth` in the pod's namespace, for messages.
    pub resource: String,
    /// LiteLLM's key in `mcp_servers`; first path segment on the outbound listener.
    pub server: String,
    /// Absolute `http` or `https` URL of the MCP server, without fragment and user info.
    pub url: String,
    pub transport: Transport,
    /// PEM certificates to trust besides the platform's. Absent at admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Cookie names, compared byte for byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
    /// Header names in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    #[serde(default)]
    pub user_context: UserContext,
    /// Where the subject token of the user is found, if tool calls carry a token of the user's own (RFC
    /// 8693).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<SubjectTokenSource>,
    /// Opaque; changes with what users' tokens are minted for, such as scopes and audience. A token that was
    /// got for another value is of no use any more. Empty where there is no exchange.
    #[serde(default, rename = "mintedFor", skip_serializing_if = "String::is_empty")]
    pub credential_identity: String,
    /// What is recorded of each call; nothing where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// What the sidecar writes of each call into its audit log.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Whether the names of a tool's arguments are written, never their values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argument_names: bool,
    /// Where the user's name is found; else a fingerprint stands for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<AuditUser>,
}

/// The part of the user context that names the user in the audit log. It goes to the MCP server only if it is
/// among [`Route::cookies`] or [`Route::headers`] too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditUser {
    pub from: SubjectTokenSource,
    /// The value is a JWT, whose claim of this name is the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// The part of the user context that is exchanged for a token of the user's own. It goes to the operator, and
/// to the MCP server only if it is among [`Route::cookies`] or [`Route::headers`] too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectTokenSource {
    /// Name of a cookie, compared byte for byte.
    Cookie(String),
    /// Name of a header in lower case.
    Header(String),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Transport {
    StreamableHttp,
    Sse,
}

/// Whether a `tools/call` without any user context is forwarded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum UserContext {
    #[default]
    Optional,
    Required,
}

/// What the sidecar authenticates to an MCP server with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Credential {
    /// `Authorization: Bearer` (RFC 6750), or `Authorization: DPoP` with a proof (RFC 9449) where there is a
    /// key.
    Bearer {
        /// Names this token in reports without telling it: random, never the same for two tokens.
        #[serde(default)]
        id: String,
        #[serde(serialize_with = "expose")]
        token: SecretString,
        /// PKCS#8 in PEM: the P-256 key that the token is bound to, and that proofs are signed with by ES256.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            serialize_with = "expose_some"
        )]
        proof_key: Option<SecretString>,
        /// Unix seconds; absent where the token says nothing of its life. Not used from then on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
    },
    /// There is none now. Requests are answered with an error that says why.
    Unavailable {
        /// Closed set, CamelCase: the reason of the resource's condition.
        reason: String,
        /// For people; never holds a secret.
        message: String,
        /// The operator does not know of any either, as after its own restart: one that the sidecar still has
        /// for the same URL serves on until it expires.
        #[serde(default)]
        keep: bool,
    },
}

/// The state of one sidecar.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which pod the sidecar believes to be in; must be the pod its token is bound to.
    pub pod: Pod,
    /// Version of the sidecar.
    pub version: String,
    /// Revision of the snapshot in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// Servers that LiteLLM does not know of before its pod is restarted, because it reads its configuration
    /// only at start.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub restart_needed_for: Vec<String>,
    /// What keeps the sidecar from doing its work.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub problems: Vec<Problem>,
    /// What keeps the sidecar from nothing, and whoever owns LiteLLM should know all the same.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub notices: Vec<Problem>,
    /// Tokens in use that an MCP server rejects: at most one for each server, gone once the sidecar has
    /// another token.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub refused: Vec<RejectedToken>,
    /// What the sidecar has learned of each server of the snapshot in use. None of a sidecar that is too old to say.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "lenient::readable_entries"
    )]
    pub reachability: Vec<ServerReachability>,
}

/// A token that an MCP server rejected: the operator is to request a better one, once for all sidecars that
/// say the same.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedToken {
    pub server: String,
    /// [`Credential::Bearer::id`].
    pub token: String,
    pub why: RejectionCause,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RejectionCause {
    /// 401, in any form but one.
    Unauthorized,
    /// 403 with `insufficient_scope` (RFC 6750 section 3.1), and the scopes that the challenge names.
    InsufficientScope(Vec<String>),
}

/// Path of the token exchange for a user: a `POST` of [`ExchangeRequest`], authenticated like the stream,
/// answered by [`ExchangeResponse`], or by a [`Problem`] with another status than 200.
pub const EXCHANGE_PATH: &str = "/v1/exchange";

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeRequest {
    /// Must be the pod the token is bound to.
    pub pod: Pod,
    /// [`Route::server`].
    pub server: String,
    /// [`Route::url`]: a token for any other URL is of no use to the sidecar.
    pub url: String,
    #[serde(serialize_with = "expose")]
    pub subject_token: SecretString,
    /// The user's token that the MCP server rejected, if that is why another one is requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The user's own token.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeResponse {
    /// Always [`Credential::Bearer`].
    pub credential: Credential,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A problem, in a form that conditions, events and logs can carry as it is.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Closed set, CamelCase.
    pub reason: String,
    /// Names the field or file and the way out; never holds a secret.
    pub message: String,
    /// The server that it is about; all of the pod's, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

impl Problem {
    /// A problem of the whole pod.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            server: None,
        }
    }

    /// The same problem, of one server only.
    pub fn for_server(self, server: impl Into<String>) -> Self {
        Self {
            server: Some(server.into()),
            ..self
        }
    }
}

/// Two credentials are equal if a sidecar would do the same with both.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Bearer {
                    id: a_id,
                    token: a,
                    proof_key: a_key,
                    expires_at: a_expires,
                },
                Self::Bearer {
                    id: b_id,
                    token: b,
                    proof_key: b_key,
                    expires_at: b_expires,
                },
            ) => {
                let text =
                    |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
                a.expose_secret() == b.expose_secret()
                    && (a_id, a_expires) == (b_id, b_expires)
                    && text(a_key) == text(b_key)
            }
            (
                Self::Unavailable {
                    reason: a,
                    message: a_message,
                    keep: a_keep,
                },
                Self::Unavailable {
                    reason: b,
                    message: b_message,
                    keep: b_keep,
                },
            ) => a == b && a_message == b_message && a_keep == b_keep,
            _ => false,
        }
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.expose_secret() == other.key.expose_secret()
    }
}

fn expose_some<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.expose_secret()),
        None => serializer.serialize_none(),
    }
}

fn expose<S: serde::Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reachability::Reachability;

    fn snapshot() -> Snapshot {
        Snapshot {
            revision: "7".into(),
            operator_ca: "PEM".into(),
            servers: vec![Server {
                route: Route {
                    resource: "tools".into(),
                    server: "tools".into(),
                    url: "https://tools.example.com/mcp".into(),
                    transport: Transport::StreamableHttp,
                    ca_bundle: None,
                    cookies: vec!["session_id".into()],
                    headers: vec![],
                    user_context: UserContext::Optional,
                    exchange: None,
                    credential_identity: String::new(),
                    audit: None,
                },
                credential: Credential::Bearer {
                    id: "a7".into(),
                    token: "t0p-s3cret".into(),
                    proof_key: Some("pr00f-key".into()),
                    expires_at: Some(1_800_000_000),
                },
                client_certificate: Some(ClientCertificate {
                    chain: "PEM".into(),
                    key: "tls-k3y".into(),
                }),
                declined: None,
            }],
            unreadable: vec![],
        }
    }

    #[test]
    fn a_snapshot_is_one_line_and_comes_back_as_it_was() {
        let line = serde_json::to_string(&snapshot()).unwrap();
        assert!(!line.contains('\n'));
        assert!(
            line.contains(concat!(
                r#""credential":{"kind":"bearer","id":"a7","token":"t0p-s3cret","#,
                r#""proofKey":"pr00f-key","expiresAt":1800000000}"#
            )),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Snapshot>(&line).unwrap(), snapshot());
    }

    #[test]
    fn debug_output_never_holds_a_secret() {
        let seen = format!("{:?}", snapshot());
        for secret in ["t0p-s3cret", "pr00f-key", "tls-k3y"] {
            assert!(!seen.contains(secret), "{seen}");
        }
    }

    /// Sidecars and operators of different versions meet during an upgrade.
    #[test]
    fn names_on_the_wire_stay_what_they_are() {
        let mut server = snapshot().servers.remove(0);
        server.route.exchange = Some(SubjectTokenSource::Cookie("session".into()));
        server.route.credential_identity = "i1".into();
        server.route.audit = Some(Audit {
            argument_names: true,
            user: Some(AuditUser {
                from: SubjectTokenSource::Header("x-id".into()),
                claim: Some("sub".into()),
            }),
        });
        server.declined = Some(DeclinedRefresh {
            token: "a7".into(),
            why: RejectionCause::InsufficientScope(vec!["write".into()]),
            message: "no".into(),
        });
        let server = serde_json::to_value(server).unwrap();
        assert_eq!(server["exchange"], json!({"cookie": "session"}));
        assert_eq!(server["mintedFor"], "i1");
        let user = json!({"from": {"header": "x-id"}, "claim": "sub"});
        assert_eq!(server["audit"], json!({"argumentNames": true, "user": user}));
        assert_eq!(server["clientCertificate"]["chain"], "PEM");
        let why = json!({"insufficientScope": ["write"]});
        assert_eq!(
            server["declined"],
            json!({"token": "a7", "why": why, "message": "no"})
        );

        let report = Report {
            applied: Some("7".into()),
            restart_needed_for: vec!["new".into()],
            problems: vec![Problem::new("PortTaken", "by another").for_server("tools")],
            notices: vec![Problem::new("ServerUnderOtherName", "crm")],
            refused: vec![RejectedToken {
                server: "tools".into(),
                token: "a7".into(),
                why: RejectionCause::Unauthorized,
            }],
            reachability: vec![ServerReachability {
                server: "tools".into(),
                state: Reachability::CertificateNotTrusted,
                since: 7,
                detail: "UnknownIssuer".into(),
            }],
            ..Report::default()
        };
        assert_eq!(
            serde_json::to_value(report).unwrap(),
            json!({
                "pod": {"namespace": "", "name": "", "uid": ""},
                "version": "",
                "applied": "7",
                "restartNeededFor": ["new"],
                "problems": [{"reason": "PortTaken", "message": "by another", "server": "tools"}],
                "notices": [{"reason": "ServerUnderOtherName", "message": "crm"}],
                "refused": [{"server": "tools", "token": "a7", "why": "unauthorized"}],
                "reachability": [{
                    "server": "tools", "state": "CertificateNotTrusted", "since": 7, "detail": "UnknownIssuer",
                }],
            })
        );
    }
}
