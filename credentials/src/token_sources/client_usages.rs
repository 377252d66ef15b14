//! Client usages: how many tokens each resource takes today, and how many of one client all of its resources in a namespace
//! take, which is what an authorization server's quota counts.
//!
//! Resources that share a token have it requested once. It counts where it was requested last, so that the forecasts of the
//! resources add up to that of the client.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth::{ClientIdentity, IssuedToday, Token, TokenCount, TokenDigest};

use crate::resource_ref::ResourceRef;
use crate::store::{ClientUsage, TokenUsage};

/// What is counted of each resource, by namespace and name.
#[derive(Default)]
pub struct ClientUsages(HashMap<String, Members>);

type Members = BTreeMap<String, Member>;

struct Member {
    counted: CountedResource,
    /// What was said last of it.
    told: Told,
}

/// By what the tokens of a resource are counted.
pub struct CountedResource {
    pub count: TokenCount,
    /// Whose tokens they are. `None`: not known yet, or of nobody whom others could be too.
    pub client: Option<ClientIdentity>,
    /// `None`: none will be requested for the service.
    pub service: Option<ServiceToken>,
    /// Tokens a day, of the client.
    pub quota: Option<u64>,
}

/// The service's token of a resource, and when it wants another one.
pub struct ServiceToken {
    pub token: Option<Arc<Token>>,
    pub next_attempt_at: Timestamp,
    /// Equal for resources that take each other's tokens now. `None`: it is requested for this resource alone.
    pub shared_as: Option<TokenDigest>,
}

/// How far the tokens of a client are towards a quota: each twentieth of it is worth a word.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct Told {
    twentieths: u64,
    is_forecast: bool,
    is_exceeded: bool,
}

/// What there is to say of a resource now.
pub struct CurrentUsage {
    /// Nothing is said of what nobody limits and none was issued of.
    pub usage: Option<TokenUsage>,
    /// The least that any resource of this client states.
    pub client_quota: Option<u64>,
    /// Other resources with a quota, of which something else is to be said than was said last.
    pub news_of: Vec<ResourceRef>,
}

impl ClientUsages {
    /// Counts a resource by this from now on.
    pub fn update(
        &mut self,
        resource: &ResourceRef,
        counted: CountedResource,
        now: Timestamp,
    ) -> CurrentUsage {
        let members = self.0.entry(resource.namespace.clone()).or_default();
        let (client, quota) = (counted.client.clone(), counted.quota);
        let told = Told::default();
        let previous = members.insert(resource.name.clone(), Member { counted, told });
        let previous = previous.and_then(|previous| previous.counted.client);
        let resources = match &client {
            Some(client) => OfClient::of(members, client, now),
            None => OfClient::single(members, &resource.name, now),
        };
        let today = resources.today(&resource.name);
        let total = resources.total();
        let usage = today.filter(|today| quota.is_some() || today.issued > 0);
        let usage = usage.map(|today| TokenUsage {
            today,
            quota,
            client: (quota.is_some() && total.resources.len() > 1).then(|| total.clone()),
        });
        let quotas = resources.0.iter();
        let client_quota = quotas
            .filter_map(|(name, _)| members.get(*name)?.counted.quota)
            .min();
        let told = quota.map(|quota| (resource.name.as_str(), Told::of(&total, quota)));
        let mut news_of = resources.news(members, told, &resource.namespace);
        let left = previous.filter(|previous| Some(previous) != client.as_ref());
        if let Some(left) = left {
            news_of.extend(OfClient::of(members, &left, now).news(members, None, &resource.namespace));
        }
        if let Some((_, told)) = told
            && let Some(member) = members.get_mut(&resource.name)
        {
            member.told = told;
        }
        CurrentUsage {
            usage,
            client_quota,
            news_of,
        }
    }

    /// Counts a resource no more, and returns the others of which something else is to be said now.
    pub fn remove(&mut self, resource: &ResourceRef, now: Timestamp) -> Vec<ResourceRef> {
        let Some(members) = self.0.get_mut(&resource.namespace) else {
            return Vec::new();
        };
        let removed = members.remove(&resource.name);
        let client = removed.and_then(|removed| removed.counted.client);
        let news_of = client.map_or_else(Vec::new, |client| {
            OfClient::of(members, &client, now).news(members, None, &resource.namespace)
        });
        if members.is_empty() {
            self.0.remove(&resource.namespace);
        }
        news_of
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The tokens of today of each resource that has one client.
struct OfClient<'a>(Vec<(&'a str, IssuedToday)>);

impl<'a> OfClient<'a> {
    fn of(members: &'a Members, client: &ClientIdentity, now: Timestamp) -> Self {
        let of_client = |(_, member): &(&String, &Member)| member.counted.client.as_ref() == Some(client);
        Self::forecast(members.iter().filter(of_client), now)
    }

    fn single(members: &'a Members, name: &str, now: Timestamp) -> Self {
        Self::forecast(members.get_key_value(name).into_iter(), now)
    }

    fn forecast(members: impl Iterator<Item = (&'a String, &'a Member)>, now: Timestamp) -> Self {
        let members: Vec<_> = members
            .map(|(name, member)| (name.as_str(), &member.counted))
            .collect();
        let mut shared: HashMap<TokenDigest, Vec<(&str, &CountedResource, &ServiceToken)>> = HashMap::new();
        for (name, counted) in &members {
            if let Some(service) = &counted.service
                && let Some(digest) = service.shared_as
            {
                shared.entry(digest).or_default().push((name, counted, service));
            }
        }
        let renewals: HashMap<_, _> = shared.values().filter_map(|sharing| renewal(sharing)).collect();
        let today = members.iter().map(|(name, counted)| {
            let next_attempt_at = match &counted.service {
                Some(service) if service.shared_as.is_some() => renewals.get(name).copied(),
                Some(service) => Some(service.next_attempt_at),
                None => None,
            };
            (*name, counted.count.today(next_attempt_at, now))
        });
        Self(today.collect())
    }

    fn today(&self, name: &str) -> Option<IssuedToday> {
        let of_name = self.0.iter().find(|(other, _)| *other == name);
        of_name.map(|(_, today)| *today)
    }

    fn total(&self) -> ClientUsage {
        let mut resources: Vec<_> = self
            .0
            .iter()
            .map(|(name, today)| ((*name).to_owned(), today.forecast))
            .collect();
        resources.sort_by(|(left, fewer), (right, more)| more.cmp(fewer).then_with(|| left.cmp(right)));
        let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
        ClientUsage {
            issued: sum(&mut self.0.iter().map(|(_, today)| today.issued)),
            forecast: sum(&mut self.0.iter().map(|(_, today)| today.forecast)),
            resources,
        }
    }

    /// Resources of which something else was said last than is to be said now. `told` is said already.
    fn news(&self, members: &Members, told: Option<(&str, Told)>, namespace: &str) -> Vec<ResourceRef> {
        let total = self.total();
        let is_news = |name: &&str| {
            let member = members.get(*name)?;
            let now = Told::of(&total, member.counted.quota?);
            let before = match told {
                Some((told_of, told)) if told_of == *name => told,
                _ => member.told,
            };
            Some(before != now)
        };
        let names = self.0.iter().map(|(name, _)| *name);
        let names = names.filter(|name| is_news(name).unwrap_or_default());
        names
            .map(|name| ResourceRef {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
            .collect()
    }
}

/// Of resources that share a token: which of them is expected to request the next one, and when. That is the one that requested
/// the last one, as soon as any that has that token wants another; whoever has an older one takes it instead.
fn renewal<'a>(sharing: &[(&'a str, &CountedResource, &ServiceToken)]) -> Option<(&'a str, Timestamp)> {
    let requested = sharing.iter().filter_map(|(name, counted, service)| {
        let issued_at = counted.count.service_issued_at()?;
        Some((issued_at, *name, service))
    });
    // Of several that another process requested a token for, it is known of none: the first is as good as any.
    let (_, name, last) = requested
        .max_by(|(earlier, left, _), (later, right, _)| earlier.cmp(later).then_with(|| right.cmp(left)))?;
    let secret = |service: &ServiceToken| {
        service
            .token
            .as_ref()
            .map(|token| token.access_token.secret().clone())
    };
    let newest = secret(last);
    let having_newest = sharing.iter().filter(|(_, _, service)| secret(service) == newest);
    let next = having_newest
        .map(|(_, _, service)| service.next_attempt_at)
        .min()?;
    Some((name, next))
}

impl Told {
    fn of(client: &ClientUsage, quota: u64) -> Self {
        Self {
            twentieths: client.issued.saturating_mul(20) / quota.max(1),
            is_forecast: client.forecast > quota,
            is_exceeded: client.issued > quota,
        }
    }
}

#[cfg(test)]
mod tests;
