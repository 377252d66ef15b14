//! The desired token source of a resource: a pure function of the spec and of what its references lead to.

mod exchange;
mod github_app;
mod oauth2;
mod signing;
mod timing;

use mcp_auth_crds::{AuditLevel, EgressProxy, EgressProxyUsers, McpServerAuthSpec, OAuth2, WorkloadIdentity};
use mcp_auth_oauth::{self as oauth, Assertions, ClientCertificate, ProxyCredentials};
use mcp_auth_protocol::sync;
use secrecy::{ExposeSecret, SecretString};

use crate::administrator_policy::AdministratorPolicy;
use crate::credential_identity::RequestDigest;
use crate::managed_key::ManagedKey;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::{Lookup, Reference, fields, resolve_printable, resolve_reference};
use crate::shared_bundle::shared_unless;
use crate::store::ServerConnection;
use crate::token_sources::{Desired, DesiredSource};

/// Bytes of a CA bundle. The public authorities are some 220 kB, and a company's own come on top.
const MAX_BUNDLE_BYTES: usize = 512 * 1024;
/// Bytes of a client certificate with its intermediate authorities and its key: a few kilobytes in practice.
const MAX_PAIR_BYTES: usize = 64 * 1024;

/// What is known besides the spec.
pub struct Inputs<'a, W> {
    /// The references of the spec, each with what was known of it when it was looked at. Once: an object that
    /// changes between two looks would be used in one state and remembered in the other, and the change
    /// be lost.
    pub references: &'a [(Reference, Lookup)],
    /// Assertions of a ServiceAccount of the resource's namespace; nothing where there are none.
    pub workload: W,
    /// The key that the operator makes for this client, where the spec wants one; nothing where there is no operator.
    pub managed_key: Option<Result<ManagedKey, NotServedError>>,
    /// The issuer that was discovered for this server before.
    pub known_issuer: Option<String>,
    /// What the administrator allows.
    pub policy: &'a AdministratorPolicy,
    /// The operator's own egress proxy, for resources that name none.
    pub egress_proxy: Option<oauth::EgressProxy>,
}

impl<W> Inputs<'_, W>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    fn find(&self, field: &str) -> Option<&(Reference, Lookup)> {
        self.references
            .iter()
            .find(|(reference, _)| reference.field == field)
    }

    /// Any text, such as PEM.
    fn text(&self, field: &str) -> Result<Option<SecretString>, NotServedError> {
        self.find(field)
            .map(|(reference, lookup)| resolve_reference(reference, lookup))
            .transpose()
    }

    /// A value that goes into a header or a form: printable ASCII.
    fn printable(&self, field: &str) -> Result<Option<SecretString>, NotServedError> {
        self.find(field)
            .map(|(reference, lookup)| resolve_printable(reference, lookup))
            .transpose()
    }

    /// A CA bundle, as PEM.
    fn bundle(&self, field: &str) -> Result<Option<String>, NotServedError> {
        let Some(pem) = self.text(field)? else {
            return Ok(None);
        };
        let pem = pem.expose_secret();
        if pem.len() > MAX_BUNDLE_BYTES {
            return Err(too_long(format!(
                "{field}: the CA bundle has {} bytes, and {MAX_BUNDLE_BYTES} are allowed: name one that has only the authorities \
                 that the server needs",
                pem.len()
            )));
        }
        Ok(Some(pem.to_owned()))
    }

    fn pair(&self, certificate: &str, key: &str) -> Result<Option<ClientCertificate>, NotServedError> {
        let (Some(chain), Some(private_key)) = (self.text(certificate)?, self.text(key)?) else {
            return Ok(None);
        };
        let bytes = chain.expose_secret().len() + private_key.expose_secret().len();
        if bytes > MAX_PAIR_BYTES {
            return Err(too_long(format!(
                "{certificate}: the client certificate and its key have {bytes} bytes, and {MAX_PAIR_BYTES} are allowed: keep the \
                 certificate alone with those of its intermediate authorities there"
            )));
        }
        Ok(Some(ClientCertificate {
            chain: chain.expose_secret().to_owned(),
            key: private_key,
        }))
    }
}

pub fn desired<W>(spec: &McpServerAuthSpec, inputs: &Inputs<'_, W>) -> Result<Desired, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    inputs.policy.check(spec)?;
    let ca_bundle = inputs.bundle(fields::SERVER_CA)?;
    // Sidecars verify by the same library.
    let check = |bundle: &str| {
        oauth::check_authority_keys(bundle)
            .map_err(|error| invalid(format!("{}: {}", fields::SERVER_CA, error.message())))
    };
    let shared_bundle = ca_bundle
        .as_deref()
        .map(|bundle| shared_unless(bundle, check))
        .transpose()?;
    let shown = inputs.pair(fields::SERVER_CERTIFICATE, fields::SERVER_KEY)?;
    let source = match inputs.printable(fields::BEARER_TOKEN)? {
        Some(token) => DesiredSource::Secret(token),
        None => {
            let configuration = match (&spec.oauth2, &spec.github_app) {
                (Some(stated), _) => oauth2::client_configuration(spec, stated, ca_bundle, inputs)?,
                (None, Some(app)) => github_app::client_configuration(spec, app, inputs)?,
                (None, None) => {
                    return Err(invalid(
                        "spec has none of oauth2, githubApp and bearerToken".into(),
                    ));
                }
            };
            DesiredSource::OAuth2(Box::new(configuration))
        }
    };
    Ok(Desired {
        source,
        connection: ServerConnection {
            ca_bundle: shared_bundle,
            client_certificate: shown.map(|pair| sync::ClientCertificate {
                chain: pair.chain,
                key: pair.key,
            }),
            egress_proxy: egress_proxy_of_sidecars(spec, inputs)?,
        },
        audit_keys: audit_keys(spec, inputs)?,
    })
}

/// Where the keys are that users' tokens are verified by.
fn audit_keys<W>(
    spec: &McpServerAuthSpec,
    inputs: &Inputs<'_, W>,
) -> Result<Option<oauth::KeySetLocation>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let audits = spec.audit.level != AuditLevel::Off;
    let jwks = spec.audit.user.as_ref().and_then(|user| user.jwks.as_ref());
    let Some(jwks) = jwks.filter(|_| audits) else {
        return Ok(None);
    };
    Ok(Some(oauth::KeySetLocation {
        issuer: jwks.issuer.clone(),
        url: jwks.url.clone(),
        ca_bundle: inputs.bundle(fields::TOKEN_ENDPOINT_CA)?,
        egress_proxy: egress_proxy_for(spec, inputs)?,
        allow_insecure_http: jwks.allow_insecure_http,
        allow_private_addresses: spec
            .oauth2
            .as_ref()
            .is_some_and(|oauth2| oauth2.allow_private_addresses),
        destinations: inputs.policy.authorization_servers.clone(),
    }))
}

fn client_id<W>(oauth2: &OAuth2, inputs: &Inputs<'_, W>) -> Result<Option<String>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let stated = match inputs.printable(fields::CLIENT_ID)? {
        Some(id) => Some(id.expose_secret().to_owned()),
        None => oauth2.client_id.clone(),
    };
    let by_metadata = || match &inputs.managed_key {
        Some(Ok(managed)) => managed.client_id_metadata.clone(),
        _ => None,
    };
    Ok(stated.or_else(by_metadata))
}

/// The resource's own, or else the operator's.
fn egress_proxy_for<W>(
    spec: &McpServerAuthSpec,
    inputs: &Inputs<'_, W>,
) -> Result<Option<oauth::EgressProxy>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    match &spec.egress_proxy {
        Some(stated) => egress_proxy(stated, inputs).map(Some),
        None => Ok(inputs.egress_proxy.clone()),
    }
}

/// The resource's own, where calls of the MCP server go through it.
fn egress_proxy_of_sidecars<W>(
    spec: &McpServerAuthSpec,
    inputs: &Inputs<'_, W>,
) -> Result<Option<sync::EgressProxy>, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let of_sidecars = |proxy: &&EgressProxy| proxy.used_by == EgressProxyUsers::OperatorAndSidecars;
    let Some(stated) = spec.egress_proxy.as_ref().filter(of_sidecars) else {
        return Ok(None);
    };
    let proxy = egress_proxy(stated, inputs)?;
    Ok(proxy.used_for(&spec.server.url).map(|used| sync::EgressProxy {
        url: used.url,
        authorization: used.authorization,
    }))
}

fn egress_proxy<W>(stated: &EgressProxy, inputs: &Inputs<'_, W>) -> Result<oauth::EgressProxy, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let username = inputs.printable(fields::PROXY_USERNAME)?;
    let password = inputs.printable(fields::PROXY_PASSWORD)?;
    let credentials = username
        .zip(password)
        .map(|(username, password)| ProxyCredentials {
            username: username.expose_secret().to_owned(),
            password,
        });
    oauth::EgressProxy::new(&stated.url, credentials.as_ref(), &stated.no_proxy)
        .map_err(|error| invalid(format!("spec.egressProxy: {error}")))
}

/// The digest of the token request. The certificate that only the MCP server is shown is no part of it, and neither is the
/// authority of that server's own, unless that server is asked for its authorization server.
fn request_digest<W>(
    spec: &McpServerAuthSpec,
    server: &oauth::ServerLocation,
    inputs: &Inputs<'_, W>,
) -> Result<RequestDigest, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let asks_mcp_server = matches!(server, oauth::ServerLocation::ProtectedResource { .. });
    let matters = |field| match field {
        fields::SERVER_CERTIFICATE | fields::SERVER_KEY => false,
        fields::SERVER_CA => asks_mcp_server,
        _ => true,
    };
    let references = inputs.references.iter();
    let references = references.filter(|(reference, _)| matters(reference.field));
    let values = references.map(|(reference, lookup)| {
        let value = match resolve_reference(reference, lookup) {
            // The second of two secrets may come and go.
            Err(_) if reference.field == fields::ALTERNATE_SECRET => SecretString::default(),
            value => value?,
        };
        Ok((reference.field, value))
    });
    let mut values = values.collect::<Result<Vec<_>, NotServedError>>()?;
    if let Some(Ok(managed)) = &inputs.managed_key {
        let key_id = managed.key.key_id().unwrap_or_default();
        values.push((fields::MANAGED_KEY, key_id.into()));
        if let Some(url) = &managed.client_id_metadata {
            values.push((fields::MANAGED_KEY, url.as_str().into()));
        }
    }
    Ok(RequestDigest::new(spec, &values))
}

fn invalid(message: String) -> NotServedError {
    NotServedError::new(NotServedReason::InvalidSpec, message)
}

/// The token in use serves until it ends; no other is requested meanwhile.
fn too_long(message: String) -> NotServedError {
    NotServedError::new(NotServedReason::LimitExceeded, message)
}

fn client_secret(word: SecretString) -> oauth::ClientSecret {
    oauth::ClientSecret::new(word.expose_secret().to_owned())
}

fn unset(field: &str) -> NotServedError {
    invalid(format!("{field} is not set"))
}

#[cfg(test)]
mod tests;
