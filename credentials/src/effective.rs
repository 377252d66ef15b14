//! Effective settings of `spec.oauth2`: what it states, and for the rest what its provider wants ([`provider`]). The
//! same function decides what is requested and what the status shows.

mod provider;

use mcp_auth_crds::{EffectiveOAuth2, McpServerAuthSpec, OAuth2};
use mcp_auth_oauth::AssertionAudience;

use crate::store::DiscoveredServer;
use provider::Preset;

/// What the token request is made of, and its token compared with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EffectiveSettings {
    pub token_url: Option<String>,
    /// `None`: not sent.
    pub resource: Option<String>,
    /// `None`: not sent.
    pub audience: Option<String>,
    pub scopes: Vec<String>,
    /// Of the assertion that the client signs about itself.
    pub client_assertion_audience: AssertionAudience,
    /// Of the assertion that it signs as the grant.
    pub grant_assertion_audience: AssertionAudience,
    /// Of the ServiceAccount token. `None`: the issuer, or else the token endpoint.
    pub workload_audience: Option<String>,
    pub accepted_audiences: Vec<String>,
    pub accepted_issuers: Vec<String>,
    /// A duration, as the spec writes it.
    pub assumed_lifetime: String,
}

impl EffectiveSettings {
    /// `client_id` is the client's name where it is known, stated or in a Secret.
    pub fn new(spec: &McpServerAuthSpec, oauth2: &OAuth2, client_id: Option<&str>) -> Self {
        let server_url = &spec.server.url;
        let preset = Preset::new(oauth2, server_url, client_id);
        let authentication = &oauth2.client_authentication;
        let private_key_jwt = authentication.private_key_jwt.as_ref();
        let grant = oauth2.jwt_bearer.as_ref();
        let assertion_audience = |stated: Option<String>| {
            let stated = stated.map(AssertionAudience::Stated);
            stated.unwrap_or_else(|| preset.assertion_audience.clone())
        };
        let workload = authentication.workload_identity.as_ref();
        let resource = oauth2.resource.clone();
        let check = &oauth2.token_check;
        Self {
            token_url: oauth2.token_url.clone().or(preset.token_url),
            resource: match preset.sends_resource {
                true => resource.or_else(|| Some(server_url.clone())),
                false => resource,
            }
            .filter(|resource| !resource.is_empty()),
            audience: match preset.sends_audience {
                true => oauth2.audience.clone().or(preset.audience),
                false => None,
            },
            scopes: stated_or(&oauth2.scopes, preset.scopes),
            client_assertion_audience: assertion_audience(
                private_key_jwt.and_then(|jwt| jwt.audience.clone()),
            ),
            grant_assertion_audience: assertion_audience(grant.and_then(|grant| grant.audience.clone())),
            workload_audience: workload
                .and_then(|workload| workload.audience.clone())
                .or(preset.workload_audience),
            accepted_audiences: stated_or(&check.accepted_audiences, preset.accepted_audiences),
            accepted_issuers: stated_or(&check.accepted_issuers, preset.accepted_issuers),
            assumed_lifetime: oauth2
                .assumed_lifetime
                .clone()
                .unwrap_or_else(|| preset.assumed_lifetime.to_owned()),
        }
    }

    /// As the status shows them. The audience of assertions may only be known when the server is.
    pub fn in_status(&self, oauth2: &OAuth2, server: Option<&DiscoveredServer>) -> EffectiveOAuth2 {
        let known = |audience: &AssertionAudience| match (audience, &self.token_url, server) {
            (AssertionAudience::Stated(stated), _, _) => Some(stated.clone()),
            (_, Some(token_url), _) => Some(token_url.clone()),
            (AssertionAudience::Issuer, None, Some(server)) => Some(server.issuer.clone()),
            (AssertionAudience::TokenEndpoint, None, Some(server)) => Some(server.token_endpoint.clone()),
            (_, None, None) => None,
        };
        let signed_grant = oauth2.jwt_bearer.as_ref().filter(|grant| grant.key_ref.is_some());
        let private_key_jwt = oauth2.client_authentication.private_key_jwt.as_ref();
        let workload = oauth2.client_authentication.workload_identity.as_ref();
        EffectiveOAuth2 {
            provider: oauth2.provider,
            token_url: self.token_url.clone(),
            resource: self.resource.clone(),
            audience: self.audience.clone(),
            scopes: self.scopes.clone(),
            client_assertion_audience: private_key_jwt.and_then(|_| known(&self.client_assertion_audience)),
            grant_assertion_audience: signed_grant.and_then(|_| known(&self.grant_assertion_audience)),
            workload_identity_audience: workload.and_then(|_| match &self.workload_audience {
                Some(audience) => Some(audience.clone()),
                None => known(&AssertionAudience::Issuer),
            }),
            accepted_audiences: self.accepted_audiences.clone(),
            accepted_issuers: self.accepted_issuers.clone(),
            assumed_lifetime: self.assumed_lifetime.clone(),
        }
    }
}

fn stated_or(stated: &[String], preset: Vec<String>) -> Vec<String> {
    match stated {
        [] => preset,
        stated => stated.to_vec(),
    }
}

#[cfg(test)]
mod tests;
