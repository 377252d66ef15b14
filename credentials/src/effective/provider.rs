//! What is peculiar to each identity provider, from its own documentation; `docs/providers` has a page for each, which
//! names the source.

use mcp_auth_crds::{OAuth2, Provider, WorkloadAssertion};
use mcp_auth_oauth::AssertionAudience;

const GOOGLE_TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// The Security Token Service.
const GOOGLE_STS_URL: &str = "https://sts.googleapis.com/v1/token";
/// What Entra wants federated credentials to be addressed to.
const ENTRA_WORKLOAD_AUDIENCE: &str = "api://AzureADTokenExchange";
/// What Entra calls all permissions of an application.
const DEFAULT_SCOPE: &str = "/.default";
const ASSUMED_LIFETIME: &str = "5m";
/// Less than the two hours that sessions of Salesforce last by default.
const SALESFORCE_LIFETIME: &str = "1h";

/// What an authorization server wants where the spec states nothing.
pub struct Preset {
    pub token_url: Option<String>,
    /// Whether it knows the parameter `resource` (RFC 8707), or takes no offence at it.
    pub sends_resource: bool,
    pub sends_audience: bool,
    pub audience: Option<String>,
    pub scopes: Vec<String>,
    pub assertion_audience: AssertionAudience,
    pub workload_audience: Option<String>,
    pub accepted_audiences: Vec<String>,
    pub accepted_issuers: Vec<String>,
    pub assumed_lifetime: &'static str,
}

impl Preset {
    pub fn new(oauth2: &OAuth2, server_url: &str, client_id: Option<&str>) -> Self {
        let standard = Self::standard();
        let Some(provider) = oauth2.provider else {
            return standard;
        };
        let peculiar = Self {
            sends_resource: false,
            ..standard
        };
        match provider {
            // It takes no notice of the parameter: its tokens get their audience from a mapper.
            Provider::Keycloak => Self::standard(),
            Provider::Cognito | Provider::PingFederate => peculiar,
            Provider::Entra => entra(oauth2, peculiar),
            Provider::Okta => Self {
                assertion_audience: AssertionAudience::TokenEndpoint,
                accepted_audiences: okta_audiences(oauth2),
                ..peculiar
            },
            Provider::Auth0 => Self {
                audience: Some(server_url.to_owned()),
                ..peculiar
            },
            Provider::Ory => Self {
                audience: Some(server_url.to_owned()),
                assertion_audience: AssertionAudience::TokenEndpoint,
                ..peculiar
            },
            Provider::Google => google(oauth2, peculiar),
            Provider::Salesforce => Self {
                assertion_audience: AssertionAudience::Stated(salesforce_login(oauth2).to_owned()),
                assumed_lifetime: SALESFORCE_LIFETIME,
                ..peculiar
            },
            Provider::ServiceNow => Self {
                assertion_audience: service_now_audience(oauth2, client_id),
                ..peculiar
            },
            Provider::Zitadel => Self {
                accepted_audiences: zitadel_projects(oauth2),
                ..peculiar
            },
        }
    }

    fn standard() -> Self {
        Self {
            token_url: None,
            sends_resource: true,
            sends_audience: true,
            audience: None,
            scopes: Vec::new(),
            assertion_audience: AssertionAudience::Issuer,
            workload_audience: None,
            accepted_audiences: Vec::new(),
            accepted_issuers: Vec::new(),
            assumed_lifetime: ASSUMED_LIFETIME,
        }
    }
}

/// A workload's token is exchanged at a place of its own. It is for the workload identity pool provider, which the parameter
/// `audience` names without a scheme.
fn google(oauth2: &OAuth2, peculiar: Preset) -> Preset {
    let workload = oauth2.client_authentication.workload_identity.as_ref();
    let exchanged = workload.is_some_and(|workload| workload.assertion == WorkloadAssertion::TokenExchange);
    let token_url = match exchanged {
        true => GOOGLE_STS_URL,
        false => GOOGLE_TOKEN_URL,
    };
    let pool = oauth2
        .audience
        .as_ref()
        .filter(|audience| exchanged && audience.starts_with("//"));
    Preset {
        token_url: oauth2.issuer.is_none().then(|| token_url.to_owned()),
        workload_audience: pool.map(|pool| format!("https:{pool}")),
        ..peculiar
    }
}

/// Scope and audience are one thing there: the identifier of an application.
fn entra(oauth2: &OAuth2, peculiar: Preset) -> Preset {
    let by_scope = || {
        oauth2
            .scopes
            .iter()
            .find_map(|scope| scope.strip_suffix(DEFAULT_SCOPE))
    };
    let application = oauth2.audience.as_deref().or_else(by_scope);
    // Tokens of version 1 name the identifier, those of version 2 the application's number alone.
    let number = application.and_then(|application| application.strip_prefix("api://"));
    let number = number.filter(|number| is_uuid(number));
    let scope = oauth2
        .audience
        .iter()
        .map(|audience| format!("{}{DEFAULT_SCOPE}", audience.trim_end_matches('/')));
    Preset {
        // The parameter is of version 1 and is refused beside a scope.
        sends_audience: false,
        scopes: scope.collect(),
        assertion_audience: AssertionAudience::TokenEndpoint,
        workload_audience: Some(ENTRA_WORKLOAD_AUDIENCE.to_owned()),
        accepted_audiences: application.into_iter().chain(number).map(str::to_owned).collect(),
        accepted_issuers: entra_issuers(oauth2),
        ..peculiar
    }
}

/// Tokens of version 1 name another issuer than the metadata, in every cloud.
fn entra_issuers(oauth2: &OAuth2) -> Vec<String> {
    let Some((host, mut path)) = location(oauth2) else {
        return Vec::new();
    };
    let Some(tenant) = path.next().filter(|tenant| is_uuid(tenant)) else {
        return Vec::new();
    };
    let of_version_1 = match host {
        "login.partner.microsoftonline.cn" | "login.chinacloudapi.cn" => "sts.chinacloudapi.cn",
        _ => "sts.windows.net",
    };
    vec![
        format!("https://{of_version_1}/{tenant}/"),
        format!("https://{host}/{tenant}/v2.0"),
    ]
}

/// The audience that the authorization server `default` comes with.
fn okta_audiences(oauth2: &OAuth2) -> Vec<String> {
    let is_default = location(oauth2).is_some_and(|(_, path)| path.take(2).eq(["oauth2", "default"]));
    is_default
        .then(|| "api://default".to_owned())
        .into_iter()
        .collect()
}

/// Where the users of an organization log in: sandboxes have a place of their own.
fn salesforce_login(oauth2: &OAuth2) -> &'static str {
    let is_sandbox = location(oauth2).is_some_and(|(host, _)| {
        host == "test.salesforce.com" || host.ends_with(".sandbox.my.salesforce.com")
    });
    match is_sandbox {
        true => "https://test.salesforce.com",
        false => "https://login.salesforce.com",
    }
}

/// The client identifier, which the assertion's issuer is too.
fn service_now_audience(oauth2: &OAuth2, client_id: Option<&str>) -> AssertionAudience {
    let issuer = oauth2
        .jwt_bearer
        .as_ref()
        .and_then(|grant| grant.issuer.as_deref());
    match client_id.or(issuer) {
        Some(client) => AssertionAudience::Stated(client.to_owned()),
        None => AssertionAudience::Issuer,
    }
}

/// Projects whose audience is requested by a scope.
fn zitadel_projects(oauth2: &OAuth2) -> Vec<String> {
    let projects = oauth2.scopes.iter().filter_map(|scope| {
        let project = scope.strip_prefix("urn:zitadel:iam:org:project:id:")?;
        project.strip_suffix(":aud")
    });
    projects.map(str::to_owned).collect()
}

/// Host and segments of the path of the issuer or the token endpoint.
fn location(oauth2: &OAuth2) -> Option<(&str, std::str::Split<'_, char>)> {
    let url = oauth2.issuer.as_deref().or(oauth2.token_url.as_deref())?;
    let (_, rest) = url.split_once("://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    Some((host, path.split('/')))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(index, character)| match index {
            8 | 13 | 18 | 23 => character == '-',
            _ => character.is_ascii_hexdigit(),
        })
}
