//! The references of a spec: keys of Secrets and ConfigMaps.

use mcp_auth_crds::{CaBundle, KeyRef, McpServerAuthSpec, SecretName};

/// A key of an object in the resource's namespace, and the field that names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    pub field: &'static str,
    pub kind: Kind,
    pub name: String,
    pub key: String,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    Secret,
    ConfigMap,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

impl Reference {
    fn secret(field: &'static str, reference: &KeyRef) -> Self {
        Self {
            field,
            kind: Kind::Secret,
            name: reference.name.clone(),
            key: reference.key.clone(),
        }
    }

    /// Certificate and key of a Secret of type `kubernetes.io/tls`.
    fn certificate(fields: [&'static str; 2], secret: &SecretName) -> [Self; 2] {
        Self::pair(fields, ["tls.crt", "tls.key"], secret)
    }

    /// Two keys of a Secret of a type that has both.
    fn pair(fields: [&'static str; 2], keys: [&str; 2], secret: &SecretName) -> [Self; 2] {
        std::array::from_fn(|index| Self {
            field: fields[index],
            kind: Kind::Secret,
            name: secret.name.clone(),
            key: keys[index].to_owned(),
        })
    }

    fn ca_bundle(field: &'static str, bundle: &CaBundle) -> Option<Self> {
        if let Some(reference) = &bundle.secret_key_ref {
            return Some(Self::secret(field, reference));
        }
        let reference = bundle.config_map_key_ref.as_ref()?;
        Some(Self {
            field,
            kind: Kind::ConfigMap,
            name: reference.name.clone(),
            key: reference.key.clone(),
        })
    }
}

/// Field names of the references that reconcile reads. A Secret of type `kubernetes.io/tls` is two of them.
pub mod fields {
    pub const SERVER_CA: &str = "spec.server.tls.caBundle";
    pub const SERVER_CERTIFICATE: &str = "spec.server.tls.clientCertificate (tls.crt)";
    pub const SERVER_KEY: &str = "spec.server.tls.clientCertificate (tls.key)";
    pub const TOKEN_ENDPOINT_CA: &str = "spec.oauth2.caBundle";
    pub const CLIENT_ID: &str = "spec.oauth2.clientIdSecretRef";
    pub const CLIENT_SECRET: &str = "spec.oauth2.clientAuthentication.clientSecretRef";
    pub const ALTERNATE_SECRET: &str = "spec.oauth2.clientAuthentication.alternateClientSecretRef";
    pub const PRIVATE_KEY: &str = "spec.oauth2.clientAuthentication.privateKeyJwt.keyRef";
    pub const PRIVATE_KEY_CERTIFICATE: &str =
        "spec.oauth2.clientAuthentication.privateKeyJwt.certificateRef (tls.crt)";
    pub const PRIVATE_KEY_OF_CERTIFICATE: &str =
        "spec.oauth2.clientAuthentication.privateKeyJwt.certificateRef (tls.key)";
    /// No reference: the operator keeps it.
    pub const MANAGED_KEY: &str = "spec.oauth2.clientAuthentication.privateKeyJwt.managed";
    pub const CERTIFICATE: &str = "spec.oauth2.clientAuthentication.certificateRef (tls.crt)";
    pub const CERTIFICATE_KEY: &str = "spec.oauth2.clientAuthentication.certificateRef (tls.key)";
    pub const CLIENT_ASSERTION: &str = "spec.oauth2.clientAuthentication.clientAssertion.secretKeyRef";
    pub const ASSERTION: &str = "spec.oauth2.jwtBearer.assertionRef";
    pub const GRANT_KEY: &str = "spec.oauth2.jwtBearer.keyRef";
    /// As many as the field has items, in their order.
    pub const EXTRA_PARAMETER: &str = "spec.oauth2.extraParametersFrom";
    pub const PROXY_USERNAME: &str = "spec.egressProxy.credentialsRef (username)";
    pub const PROXY_PASSWORD: &str = "spec.egressProxy.credentialsRef (password)";
    pub const GITHUB_APP_KEY: &str = "spec.githubApp.keyRef";
    pub const GITHUB_CA: &str = "spec.githubApp.caBundle";
    pub const BEARER_TOKEN: &str = "spec.bearerToken.secretKeyRef";
}

/// Every reference of a spec, in the order of its fields.
pub fn needed(spec: &McpServerAuthSpec) -> Vec<Reference> {
    let mut references = Vec::new();
    if let Some(tls) = &spec.server.tls {
        let ca = tls.ca_bundle.as_ref();
        references.extend(ca.and_then(|bundle| Reference::ca_bundle(fields::SERVER_CA, bundle)));
        let pair = tls.client_certificate.as_ref();
        references.extend(
            pair.into_iter().flat_map(|pair| {
                Reference::certificate([fields::SERVER_CERTIFICATE, fields::SERVER_KEY], pair)
            }),
        );
    }
    if let Some(oauth2) = &spec.oauth2 {
        let authentication = &oauth2.client_authentication;
        let ca = oauth2.ca_bundle.as_ref();
        references.extend(ca.and_then(|bundle| Reference::ca_bundle(fields::TOKEN_ENDPOINT_CA, bundle)));
        let private_key_jwt = authentication.private_key_jwt.as_ref();
        let client_assertion = authentication.client_assertion.as_ref();
        let jwt_bearer = oauth2.jwt_bearer.as_ref();
        let keys = [
            (fields::CLIENT_ID, oauth2.client_id_secret_ref.as_ref()),
            (fields::CLIENT_SECRET, authentication.client_secret_ref.as_ref()),
            (
                fields::ALTERNATE_SECRET,
                authentication.alternate_client_secret_ref.as_ref(),
            ),
            (
                fields::PRIVATE_KEY,
                private_key_jwt.and_then(|jwt| jwt.key_ref.as_ref()),
            ),
            (
                fields::CLIENT_ASSERTION,
                client_assertion.map(|assertion| &assertion.secret_key_ref),
            ),
            (
                fields::ASSERTION,
                jwt_bearer.and_then(|grant| grant.assertion_ref.as_ref()),
            ),
            (
                fields::GRANT_KEY,
                jwt_bearer.and_then(|grant| grant.key_ref.as_ref()),
            ),
        ];
        let stated = keys.into_iter().filter_map(|(field, key)| Some((field, key?)));
        references.extend(stated.map(|(field, key)| Reference::secret(field, key)));
        let parameters = oauth2.extra_parameters_from.iter();
        references.extend(
            parameters.map(|parameter| Reference::secret(fields::EXTRA_PARAMETER, &parameter.secret_key_ref)),
        );
        let pairs = [
            (
                [fields::CERTIFICATE, fields::CERTIFICATE_KEY],
                authentication.certificate_ref.as_ref(),
            ),
            (
                [
                    fields::PRIVATE_KEY_CERTIFICATE,
                    fields::PRIVATE_KEY_OF_CERTIFICATE,
                ],
                private_key_jwt.and_then(|jwt| jwt.certificate_ref.as_ref()),
            ),
        ];
        let stated = pairs
            .into_iter()
            .filter_map(|(fields, pair)| Some((fields, pair?)));
        references.extend(stated.flat_map(|(fields, pair)| Reference::certificate(fields, pair)));
    }
    if let Some(app) = &spec.github_app {
        let ca = app.ca_bundle.as_ref();
        references.extend(ca.and_then(|bundle| Reference::ca_bundle(fields::GITHUB_CA, bundle)));
        references.push(Reference::secret(fields::GITHUB_APP_KEY, &app.key_ref));
    }
    let proxy = spec.egress_proxy.as_ref();
    let credentials = proxy.and_then(|proxy| proxy.credentials_ref.as_ref());
    references.extend(credentials.into_iter().flat_map(|credentials| {
        let fields = [fields::PROXY_USERNAME, fields::PROXY_PASSWORD];
        Reference::pair(fields, ["username", "password"], credentials)
    }));
    let bearer = spec.bearer_token.as_ref();
    references.extend(bearer.map(|bearer| Reference::secret(fields::BEARER_TOKEN, &bearer.secret_key_ref)));
    references
}
