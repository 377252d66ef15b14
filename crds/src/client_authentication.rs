//! Client authentication at the token endpoint: the methods, and the references to what each needs.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KeyRef, SecretName};
/// How the client authenticates at the token endpoint.
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(self.method in ['ClientSecretBasic', 'ClientSecretPost']) == has(self.clientSecretRef)",
        "clientSecretRef belongs to the methods ClientSecretBasic and ClientSecretPost, which need it"
    ),
    validation = (
        "!has(self.alternateClientSecretRef) || has(self.clientSecretRef)",
        "alternateClientSecretRef is the second of two: set clientSecretRef too"
    ),
    validation = (
        "(self.method == 'PrivateKeyJwt') == has(self.privateKeyJwt)",
        "privateKeyJwt belongs to the method PrivateKeyJwt, which needs it"
    ),
    validation = (
        "self.method != 'TlsClientAuth' || has(self.certificateRef)",
        "the method TlsClientAuth needs certificateRef"
    ),
    validation = (
        "(self.method == 'ClientAssertion') == has(self.clientAssertion)",
        "clientAssertion belongs to the method ClientAssertion, which needs it"
    ),
    validation = (
        "has(self.workloadIdentity) ? self.method == 'WorkloadIdentity' : true",
        "workloadIdentity belongs to the method WorkloadIdentity"
    ),
    validation = (
        "self.method != 'WorkloadIdentity' || (has(self.workloadIdentity) && \
         has(self.workloadIdentity.serviceAccountRef))",
        "the method WorkloadIdentity needs workloadIdentity.serviceAccountRef, a ServiceAccount of this namespace: \
         the operator's own is not used"
    )
)]
pub struct ClientAuthentication {
    pub method: ClientAuthenticationMethod,

    /// The client secret, for ClientSecretBasic and ClientSecretPost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<KeyRef>,

    /// A second client secret, the previous or the next one: tried where the authorization server refuses the
    /// first with `invalid_client`, so that a rotation has no moment at which neither works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_client_secret_ref: Option<KeyRef>,

    /// The signing key, for PrivateKeyJwt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_jwt: Option<PrivateKeyJwt>,

    /// The client certificate: a Secret of type `kubernetes.io/tls`. By TlsClientAuth it says who the client is; with
    /// any other method it is shown besides, for tokens that are bound to it (RFC 8705 section 3) and for gateways
    /// that demand one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<SecretName>,

    /// An assertion that something else mints, for ClientAssertion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_assertion: Option<ClientAssertion>,

    /// The ServiceAccount whose token is the client's identity, for WorkloadIdentity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
}

impl ClientAuthentication {
    /// The key that the operator makes, where it is to.
    pub fn managed_key(&self) -> Option<&ManagedKey> {
        self.private_key_jwt.as_ref()?.managed.as_ref()
    }

    /// The method None.
    pub fn none() -> Self {
        Self {
            method: ClientAuthenticationMethod::None,
            client_secret_ref: None,
            alternate_client_secret_ref: None,
            private_key_jwt: None,
            certificate_ref: None,
            client_assertion: None,
            workload_identity: None,
        }
    }
}

/// Client authentication method: the secret in the Authorization header (`ClientSecretBasic`) or in the body
/// (`ClientSecretPost`), RFC 6749 section 2.3.1; a signed assertion (`PrivateKeyJwt`), RFC 7523; a TLS client
/// certificate (`TlsClientAuth`), RFC 8705; a ServiceAccount of the namespace (`WorkloadIdentity`), RFC
/// 7523; an assertion that something else keeps in a Secret (`ClientAssertion`), such as a JWT-SVID of SPIFFE or a JWT of
/// AWS STS; not at all (`None`), where the assertion of `jwtBearer` says it all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientAuthenticationMethod {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    TlsClientAuth,
    WorkloadIdentity,
    ClientAssertion,
    None,
}

/// Client authentication by a signed assertion (RFC 7523 section 2.2).
#[derive(KubeSchema, Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(has(self.keyRef) ? 1 : 0) + (has(self.certificateRef) ? 1 : 0) + (has(self.managed) ? 1 : 0) == 1",
        "exactly one of keyRef, certificateRef and managed must be set"
    ),
    validation = (
        "!has(self.managed) || !(has(self.keyId) || has(self.algorithm))",
        "keyId and algorithm belong to a key of yours: the operator names its keys itself, and managed.algorithm says \
         what they sign by"
    )
)]
pub struct PrivateKeyJwt {
    /// The private key, in PEM or as a JWK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ref: Option<KeyRef>,

    /// The private key with its certificate: a Secret of type `kubernetes.io/tls`. The assertion's header then names
    /// the certificate too (`x5t`, `x5t#S256`), as Microsoft Entra wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<SecretName>,

    /// A key that the operator makes, rotates and publishes, so that there is no secret to store: register the URL in
    /// `status.managedKey.jwksUri` as the client's `jwks_uri`. The chart's `managedKeys.enabled` turns it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedKey>,

    /// The `kid` header of the assertion. Default: the JWK's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,

    /// The signature algorithm. Default: by the kind of key, RS256, ES256, ES384, ES512 or EdDSA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SignatureAlgorithm")]
    pub algorithm: Option<SignatureAlgorithm>,

    /// The `aud` claim of the assertion. Default: the issuer where it is known, else the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
}

/// A signing key of the operator's own. Without `clientId` the client is named by the URL of its client ID metadata
/// document (draft-ietf-oauth-client-id-metadata-document), which the operator publishes too.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedKey {
    /// What the keys sign by: `ES256`, `ES384`, `ES512`, `EdDSA` or, for servers that take nothing else, `RS256` (RSA, 2048 bits).
    /// A change counts for the next key, and that signs from the next rotation on.
    #[serde(default)]
    pub algorithm: ManagedKeyAlgorithm,

    /// How long a key signs, in hours. Its successor is published all that time before it signs. Default: `720h`.
    #[serde(default = "rotate_after")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,3}h$"))]
    pub rotate_after: String,
}

impl ManagedKey {
    /// [`Self::rotate_after`] as a number. `None`: it does not have the form that the definition demands.
    pub fn rotate_after_hours(&self) -> Option<u32> {
        self.rotate_after.strip_suffix('h')?.parse().ok()
    }
}

/// JWS signature algorithm of keys that the operator makes (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ManagedKeyAlgorithm {
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "ES512")]
    Es512,
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "RS256")]
    Rs256,
}

fn rotate_after() -> String {
    "720h".to_owned()
}

/// JWS signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SignatureAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "ES512")]
    Es512,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// A client assertion that something else mints and renews (RFC 7521 section 4.2). Taken over the moment it changes.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAssertion {
    /// The assertion: a JWT.
    pub secret_key_ref: KeyRef,

    #[serde(default)]
    pub r#type: ClientAssertionType,
}

/// `client_assertion_type` of the request: `JwtBearer` (RFC 7523 section 2.2), or `JwtSpiffe` for a JWT-SVID where the
/// authorization server wants that named so (draft-ietf-oauth-spiffe-client-auth).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientAssertionType {
    #[default]
    JwtBearer,
    JwtSpiffe,
}

/// A token of a ServiceAccount of the resource's own namespace as the client's identity. The namespace must be among
/// those that the operator may request such tokens in (`workloadIdentity.namespaces` of the chart).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// The ServiceAccount, in the namespace of this resource: `system:serviceaccount:NAMESPACE:NAME` towards the
    /// authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountName>,

    /// Audience of the ServiceAccount token. Default: the issuer or the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,

    #[serde(default)]
    pub assertion: WorkloadAssertion,
}

/// A ServiceAccount of the resource's namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ServiceAccountName {
    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// The ServiceAccount token authenticates the client (`ClientAssertion`, RFC 7523 section 2.2), is the grant itself
/// (`JwtBearer`, section 2.1), or is exchanged for the token (`TokenExchange`, RFC 8693), as Google's Security Token Service
/// has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum WorkloadAssertion {
    #[default]
    ClientAssertion,
    JwtBearer,
    TokenExchange,
}
