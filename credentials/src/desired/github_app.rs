//! The client that asks GitHub for installation access tokens, from `spec.githubApp` and the app's key.

use mcp_auth_crds::{GitHubApp, GitHubPermission, McpServerAuthSpec, WorkloadIdentity};
use mcp_auth_oauth::{
    self as oauth, Algorithm, Assertions, ClientAuthentication, Grant, KeyError, Registration, SigningKey,
    TokenCheck, TokenCheckMode,
};
use secrecy::ExposeSecret;

use super::timing::Timing;
use super::{Inputs, egress_proxy_for, request_digest, signing, unset};
use crate::not_served::NotServedError;
use crate::references::fields;
use crate::token_sources::{ClientConfiguration, StepUpPolicy};

/// Why scopes that an MCP server demands are not requested.
const NO_STEP_UP: &str = "a token of a GitHub App has the permissions of its installation at GitHub: give it more \
                          there, and in spec.githubApp.permissions if that is set";

pub fn client_configuration<W>(
    spec: &McpServerAuthSpec,
    app: &GitHubApp,
    inputs: &Inputs<'_, W>,
) -> Result<ClientConfiguration, NotServedError>
where
    W: Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
{
    let timing = Timing::parse("spec.githubApp", &app.refresh_before, None, &app.request_timeout)?;
    let text = inputs.text(fields::GITHUB_APP_KEY)?;
    let text = text.ok_or_else(|| unset(fields::GITHUB_APP_KEY))?;
    let key = SigningKey::parse(text.expose_secret(), Some(Algorithm::Rs256), None);
    let key = key.map_err(|error| {
        let message = match error {
            // What it says of the algorithm speaks of a field that there is not here.
            KeyError::AlgorithmMismatch { key, .. } => format!(
                "it is a key of the kind {key}, and those of GitHub Apps are RSA: use the private key that GitHub \
                 generated"
            ),
            error => error.message(),
        };
        signing::invalid_key(inputs, fields::GITHUB_APP_KEY, &message)
    })?;
    let token_url = format!(
        "{}/app/installations/{}/access_tokens",
        app.api_url.trim_end_matches('/'),
        app.installation_id
    );
    let permissions = app.permissions.iter().map(|(name, access)| {
        let access = match access {
            GitHubPermission::Read => "read",
            GitHubPermission::Write => "write",
            GitHubPermission::Admin => "admin",
        };
        (name.clone(), access.to_owned())
    });
    let registration = Registration {
        grant: Grant::GitHubApp(oauth::GitHubApp {
            app_id: app.app_id,
            key,
            repositories: app.repositories.clone(),
            permissions: permissions.collect(),
        }),
        // Its tokens are GitHub's to read, whatever they look like.
        check: TokenCheck {
            mode: TokenCheckMode::Off,
            ..TokenCheck::default()
        },
        ca_bundle: inputs.bundle(fields::GITHUB_CA)?,
        egress_proxy: egress_proxy_for(spec, inputs)?,
        allow_insecure_http: app.allow_insecure_http,
        destinations: inputs.policy.authorization_servers.clone(),
        ..Registration::new(token_url, app.app_id.to_string(), ClientAuthentication::None)
    };
    Ok(ClientConfiguration {
        request_digest: request_digest(spec, &registration.server, inputs)?,
        registration,
        policy: timing.policy(),
        limits: timing.limits(),
        exchanges: false,
        service_token: true,
        revoke_on_deletion: false,
        quota: None,
        step_up: StepUpPolicy::Off { why: NO_STEP_UP },
    })
}
