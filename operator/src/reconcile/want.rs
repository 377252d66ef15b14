//! How the token of a resource is to be had: a pure function of the spec and of what its references lead to.

use mcp_auth_crds::{ClientAuthenticationMethod, McpServerAuthSpec, reasons};
use mcp_auth_oauth::{ClientAuthentication, Policy, RefreshBefore, Registration};
use secrecy::{ExposeSecret, SecretString};

use super::resolve::{Blocked, resolve, resolve_word};
use crate::references::{Lookup, Reference, fields};

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum Want {
    OAuth2 {
        registration: Box<Registration>,
        policy: Policy,
    },
    /// It is in a Secret.
    Given(SecretString),
}

/// The source of the token, and the CA bundle of the MCP server.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: Want,
    pub server_ca: Option<String>,
}

/// Equal where a token source would ask in the same way.
pub fn same_registration(a: &Registration, b: &Registration) -> bool {
    let credentials = |registration: &Registration| match &registration.authentication {
        ClientAuthentication::SecretBasic(secret) => (0, secret.expose_secret().to_owned()),
        ClientAuthentication::SecretPost(secret) => (1, secret.expose_secret().to_owned()),
    };
    a.token_url == b.token_url
        && a.client_id == b.client_id
        && a.scopes == b.scopes
        && a.audience == b.audience
        && a.resource == b.resource
        && a.extra_parameters == b.extra_parameters
        && a.ca_bundle == b.ca_bundle
        && a.allow_insecure_http == b.allow_insecure_http
        && credentials(a) == credentials(b)
}

/// `look` answers what is known of a reference of the spec.
pub fn want(
    spec: &McpServerAuthSpec,
    references: &[Reference],
    look: impl Fn(&Reference) -> Lookup,
) -> Result<Wanted, Blocked> {
    let by_field = |field: &str| references.iter().find(|reference| reference.field == field);
    let text = |field: &str| {
        by_field(field)
            .map(|reference| resolve(reference, &look(reference)))
            .transpose()
    };
    let word = |field: &str| {
        by_field(field)
            .map(|reference| resolve_word(reference, &look(reference)))
            .transpose()
    };

    let server_ca = text(fields::SERVER_CA)?.map(|pem| pem.expose_secret().to_owned());
    if let Some(token) = word(fields::BEARER_TOKEN)? {
        return Ok(Wanted {
            source: Want::Given(token),
            server_ca,
        });
    }
    let invalid = |message: String| Blocked::new(reasons::INVALID_SPEC, message);
    let oauth2 = spec
        .oauth2
        .as_ref()
        .ok_or_else(|| invalid("spec has neither oauth2 nor bearerToken".into()))?;
    let ca_bundle = text(fields::TOKEN_ENDPOINT_CA)?.map(|pem| pem.expose_secret().to_owned());
    let client_id = match word(fields::CLIENT_ID)? {
        Some(id) => id.expose_secret().to_owned(),
        None => oauth2
            .client_id
            .clone()
            .ok_or_else(|| invalid("spec.oauth2.clientId is not set".into()))?,
    };
    let secret = word(fields::CLIENT_SECRET)?;
    let secret = secret.ok_or_else(|| invalid(format!("{} is not set", fields::CLIENT_SECRET)))?;
    let authentication = match oauth2.client_authentication.method {
        ClientAuthenticationMethod::ClientSecretPost => ClientAuthentication::SecretPost(secret),
        _ => ClientAuthentication::SecretBasic(secret),
    };
    let resource = oauth2.resource.clone().unwrap_or_else(|| spec.server.url.clone());
    let registration = Registration {
        token_url: oauth2
            .token_url
            .clone()
            .ok_or_else(|| invalid("spec.oauth2.tokenUrl is not set".into()))?,
        client_id,
        authentication,
        scopes: oauth2.scopes.clone(),
        audience: oauth2.audience.clone(),
        resource: Some(resource).filter(|resource| !resource.is_empty()),
        extra_parameters: oauth2.extra_parameters.clone(),
        ca_bundle,
        allow_insecure_http: oauth2.allow_insecure_http,
    };
    let refresh_before = oauth2.refresh_before.parse::<RefreshBefore>();
    let refresh_before =
        refresh_before.map_err(|error| invalid(format!("spec.oauth2.refreshBefore: {error}")))?;
    Ok(Wanted {
        source: Want::OAuth2 {
            registration: Box::new(registration),
            policy: Policy {
                refresh_before,
                ..Policy::default()
            },
        },
        server_ca,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::references::needed;

    fn spec(oauth2: serde_json::Value) -> McpServerAuthSpec {
        let server = json!({"name": "tools", "url": "https://tools.example.com/mcp"});
        serde_json::from_value(json!({"server": server, "oauth2": oauth2})).unwrap()
    }

    fn basic() -> serde_json::Value {
        json!({
            "tokenUrl": "https://auth.example.com/token",
            "clientId": "litellm",
            "clientAuthentication": {
                "method": "ClientSecretBasic",
                "clientSecretRef": {"name": "oauth", "key": "secret"},
            },
        })
    }

    fn found(_: &Reference) -> Lookup {
        Lookup::Found(Arc::new(
            [("secret".to_owned(), b"s3cret\n".to_vec().into())].into(),
        ))
    }

    fn registration(spec: &McpServerAuthSpec) -> Registration {
        match want(spec, &needed(spec), found).unwrap().source {
            Want::OAuth2 { registration, .. } => *registration,
            Want::Given(_) => panic!("not a given token"),
        }
    }

    #[test]
    fn the_resource_parameter_is_the_servers_url_unless_the_spec_says_otherwise() {
        assert_eq!(
            registration(&spec(basic())).resource.as_deref(),
            Some("https://tools.example.com/mcp")
        );
        let mut other = basic();
        other["resource"] = json!("urn:tools");
        assert_eq!(registration(&spec(other)).resource.as_deref(), Some("urn:tools"));
        let mut none = basic();
        none["resource"] = json!("");
        assert_eq!(registration(&spec(none)).resource, None);
    }

    #[test]
    fn the_first_reference_that_leads_nowhere_blocks() {
        let spec = spec(basic());
        let blocked = want(&spec, &needed(&spec), |_| Lookup::NotFound).unwrap_err();
        assert_eq!(blocked.reason, "SecretNotFound");
        assert!(blocked.message.contains("clientSecretRef"), "{}", blocked.message);
    }

    #[test]
    fn a_changed_secret_is_another_registration() {
        let one = registration(&spec(basic()));
        let mut two = one.clone();
        assert!(same_registration(&one, &two));
        two.authentication = ClientAuthentication::SecretBasic("other".into());
        assert!(!same_registration(&one, &two));
    }

    #[test]
    fn a_refresh_before_that_cannot_be_read_names_its_field() {
        let mut spec = spec(basic());
        spec.oauth2.as_mut().unwrap().refresh_before = "soon".into();
        let blocked = want(&spec, &needed(&spec), found).unwrap_err();
        assert_eq!(blocked.reason, "InvalidSpec");
        assert!(
            blocked.message.contains("\"soon\" is not a duration"),
            "{}",
            blocked.message
        );
    }
}
