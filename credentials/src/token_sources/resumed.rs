//! What another process has left of a resource, as its status and the published state tell: the next leader goes on from there.

use jiff::Timestamp;
use jiff::civil::Date;
use mcp_auth_crds::{AuthorizationServerStatus, McpServerAuth, OAuth2, conditions, reasons};
use mcp_auth_oauth::{ClientIdentity, TokenCount};

use super::client_usages::{CountedClient, CountedResource};
use super::orphaned_token::OrphanedToken;
use super::{Source, SourceKind, TokenSources};
use crate::effective::EffectiveSettings;
use crate::resource_ref::ResourceRef;
use crate::store::{SaidOfQuota, TokenUsage};

/// What a resource says of its client before anything that it refers to was read, and what its status said before this process
/// led.
#[derive(Default)]
pub struct Resumed {
    /// Whether it is a client of an authorization server.
    pub has_client: bool,
    token_endpoint: Option<String>,
    client_id: Option<String>,
    said_of_quota: Option<(Date, SaidOfQuota)>,
}

impl Resumed {
    pub fn of(resource: &McpServerAuth) -> Self {
        Self {
            said_of_quota: said_of_quota(resource),
            ..Self::default()
        }
        .changed(resource)
    }

    /// Of the resource as it is now.
    pub fn changed(self, resource: &McpServerAuth) -> Self {
        let spec = &resource.spec;
        let oauth2 = spec.oauth2.as_ref();
        let client_id = oauth2.and_then(|oauth2| oauth2.client_id.clone());
        let token_endpoint = oauth2.and_then(|oauth2| {
            let known = known_server(resource);
            let known = known.filter(|known| {
                oauth2
                    .issuer
                    .as_ref()
                    .is_none_or(|issuer| *issuer == known.issuer)
            });
            EffectiveSettings::new(spec, oauth2, client_id.as_deref())
                .token_url
                .or_else(|| Some(known?.token_endpoint.clone()))
        });
        Self {
            has_client: oauth2.is_some() || spec.github_app.is_some(),
            token_endpoint,
            client_id,
            ..self
        }
    }

    /// Who the client is, as far as that shows. `name` is what its server knows it by, where that was read.
    pub fn client(&self, name: Option<&str>) -> Option<ClientIdentity> {
        let name = name.or(self.client_id.as_deref())?;
        ClientIdentity::stated(self.token_endpoint.as_deref()?, name)
    }

    /// What was said before stands in the place of what cannot be said yet.
    pub fn tell(&mut self, usage: &mut TokenUsage, now: Timestamp) {
        self.said_of_quota.take_if(|(day, _)| {
            let is_over = *day != usage.today.day || !usage.today.is_of(now);
            is_over || !usage.is_partial
        });
        usage.said_before = self.said_of_quota.as_ref().map(|(_, said)| said.clone());
    }
}

/// The authorization server of an earlier status, if that spoke of the same MCP server.
pub fn known_server(resource: &McpServerAuth) -> Option<&AuthorizationServerStatus> {
    let remembered = resource.status.as_ref()?.authorization_server.as_ref()?;
    (remembered.resource == resource.spec.server.url).then_some(remembered)
}

pub fn stated_quota(oauth2: &OAuth2) -> Option<u64> {
    u64::try_from(oauth2.quota.as_ref()?.tokens_per_day).ok()
}

/// Of this generation.
fn said_of_quota(resource: &McpServerAuth) -> Option<(Date, SaidOfQuota)> {
    let status = resource.status.as_ref()?;
    if status.observed_generation != resource.metadata.generation {
        return None;
    }
    let day = status.token.as_ref()?.usage.as_ref()?.date.parse().ok()?;
    let mut of_token = status.conditions.iter();
    let of_token = of_token.find(|condition| condition.type_ == conditions::TOKEN_ISSUED)?;
    let mut of_quota = [reasons::QUOTA_EXCEEDED, reasons::QUOTA_FORECAST].into_iter();
    let said = SaidOfQuota {
        reason: of_quota.find(|reason| *reason == of_token.reason)?,
        message: of_token.message.clone(),
    };
    Some((day, said))
}

impl TokenSources {
    /// Counts what was issued today for resources before any of them is published, so that what is said of a client's quota is of
    /// all that have it.
    pub fn resume_counts<'a>(&self, resources: impl IntoIterator<Item = &'a McpServerAuth>) {
        let now = self.clock.now();
        let sources = self.sources.lock();
        for resource in resources {
            let (resource_ref, resumed) = (ResourceRef::from(resource), Resumed::of(resource));
            if !resumed.has_client || sources.contains_key(&resource_ref) {
                continue;
            }
            let counted = CountedResource {
                count: self.resumed_count(resource),
                client: resumed
                    .client(None)
                    .map_or(CountedClient::Unknown, CountedClient::Known),
                is_awaited: true,
                service: None,
                quota: None,
                former_client: None,
            };
            self.usages.lock().update(&resource_ref, counted, now);
        }
    }

    /// Of a resource that has no source yet, with the token that was published for it: by the replica that led
    /// before this one, or by an earlier lead of this one.
    pub(super) fn resumed(&self, resource: &McpServerAuth) -> Option<Source> {
        let published = self.credentials.published(resource)?;
        let orphaned = OrphanedToken::resume(published.seed?);
        (!orphaned.is_expired(self.clock.now())).then(|| Source {
            credential_identity: published.credential_identity,
            generation: None,
            connection: published.connection,
            audit_keys: None,
            problem: None,
            kind: SourceKind::Orphaned(orphaned),
            count: self.resumed_count(resource),
            client: None,
            resumed: Resumed::of(resource),
            quota: resource.spec.oauth2.as_ref().and_then(stated_quota),
            url: resource.spec.server.url.clone(),
            superseded: None,
            timer: None,
        })
    }

    /// What the resource's status says that was issued today, by whichever replica.
    pub(super) fn resumed_count(&self, resource: &McpServerAuth) -> TokenCount {
        let count = TokenCount::default();
        let token = resource.status.as_ref().and_then(|status| status.token.as_ref());
        if let Some(usage) = token.and_then(|token| token.usage.as_ref())
            && let (Ok(date), Ok(issued)) = (usage.date.parse(), u64::try_from(usage.issued))
        {
            let issued_at = token.and_then(|token| token.issued_at.as_ref()).map(|at| at.0);
            count.resume(date, issued, issued_at, self.clock.now());
        }
        count
    }
}
