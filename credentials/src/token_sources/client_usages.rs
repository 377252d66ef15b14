//! Client usages: how many tokens each resource takes today, and how many of one client all of its resources in a namespace
//! take, which is what an authorization server's quota counts.
//!
//! Resources that share a token have it requested once. It counts where it was requested last, so that the forecasts of the
//! resources add up to that of the client.

mod forecast;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth::{ClientIdentity, IssuedToday, Token, TokenCount, TokenDigest};

use crate::resource_ref::ResourceRef;
use crate::store::{ClientUsage, TokenUsage};
use forecast::{Forecast, forecast};

/// What is counted of each resource, by namespace and name.
#[derive(Default)]
pub struct ClientUsages(HashMap<String, Members>);

/// Of a namespace.
#[derive(Default)]
struct Members {
    by_name: BTreeMap<String, Member>,
    by_client: HashMap<ClientIdentity, OfClient>,
    /// Those with [`CountedResource::is_awaited`].
    awaited: BTreeSet<String>,
    /// Those of [`CountedClient::Unknown`].
    unknown: BTreeSet<String>,
}

/// What is known of a client.
#[derive(Default)]
struct OfClient {
    names: BTreeSet<String>,
    /// Those of them that state a quota.
    with_quota: BTreeSet<String>,
    /// What resources that have another client by now took before.
    of_former_members: Vec<(String, IssuedToday)>,
    /// As it was made last, in this second. Hundreds of resources are looked at in one moment, and most of them have not changed.
    forecast: Option<(i64, Arc<Forecast>)>,
}

struct Member {
    counted: CountedResource,
    /// What was counted of it then.
    seen: Seen,
    /// What its status was last given.
    reported: ReportedUsage,
}

#[derive(Eq, PartialEq)]
struct Seen {
    today: IssuedToday,
    service_issued_at: Option<Timestamp>,
}

/// By what the tokens of a resource are counted.
pub struct CountedResource {
    pub count: TokenCount,
    pub client: CountedClient,
    /// What is known of it is yet to be looked at: it may request more than can be told now.
    pub is_awaited: bool,
    /// `None`: none will be requested for the service.
    pub service: Option<ServiceToken>,
    /// Tokens a day, of the client.
    pub quota: Option<u64>,
    /// The client that it had until now, and what that was issued for it.
    pub former_client: Option<(ClientIdentity, IssuedToday)>,
}

/// Whose tokens a resource takes.
#[derive(Clone, Eq, PartialEq)]
pub enum CountedClient {
    Known(ClientIdentity),
    /// Its client has no name, so that no other resource can have the same one.
    Alone,
    /// It may be that of any other.
    Unknown,
}

/// The service's token of a resource, and when it wants another one.
pub struct ServiceToken {
    pub token: Option<Arc<Token>>,
    pub next_attempt_at: Timestamp,
    /// Equal for resources that take each other's tokens now. `None`: it is requested for this resource alone.
    pub shared_as: Option<TokenDigest>,
}

/// How far the tokens of a client are towards a quota. The status is written again with each twentieth of it.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct ReportedUsage {
    twentieths: u64,
    is_forecast: bool,
    is_exceeded: bool,
    is_partial: bool,
}

/// What there is to say of a resource now.
pub struct CurrentUsage {
    /// `None`: the resource states no quota, and no token was issued for it today.
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
        mut counted: CountedResource,
        now: Timestamp,
    ) -> CurrentUsage {
        let ResourceRef { namespace, name } = resource;
        let members = self.0.entry(namespace.clone()).or_default();
        let was_partial = members.is_partial(now);
        let (client, quota) = (counted.client.clone(), counted.quota);
        let former_client = counted.former_client.take();
        let previous = members.insert(name, counted, now);
        let has_moved = previous.as_ref() != Some(&client);
        let mut news_of = Vec::new();
        if let Some((client, today)) = former_client {
            members.keep_issued(name, client, today);
        }
        let is_partial = members.is_partial(now);
        let forecast = members.forecast(name, &client, now);
        let today = forecast.of.get(name).copied();
        let usage = today.filter(|today| quota.is_some() || today.issued > 0);
        let usage = usage.map(|today| TokenUsage {
            today,
            quota,
            client: (quota.is_some() && forecast.is_of_more_than_one()).then(|| forecast.total.clone()),
            is_partial: is_partial && client != CountedClient::Alone,
            said_before: None,
        });
        if let (Some(quota), Some(member)) = (quota, members.by_name.get_mut(name)) {
            member.reported = ReportedUsage::of(&forecast.total, quota, is_partial);
        }
        match is_partial == was_partial {
            true => {
                let former = previous.filter(|previous| *previous != client);
                for client in former.iter().chain([&client]) {
                    news_of.extend(members.news(client, is_partial, now));
                }
            }
            // Of all clients.
            false => {
                let clients: Vec<_> = members.by_client.keys().cloned().collect();
                for client in clients.into_iter().map(CountedClient::Known) {
                    news_of.extend(members.news(&client, is_partial, now));
                }
            }
        }
        let client_quota = match &client {
            CountedClient::Known(client) => members.least_quota(client),
            CountedClient::Alone | CountedClient::Unknown => quota,
        };
        if has_moved {
            members.forget_unused(now);
        }
        CurrentUsage {
            usage,
            client_quota,
            news_of: of_namespace(namespace, news_of),
        }
    }

    /// Counts a resource no more, and returns the others of which something else is to be said now.
    pub fn remove(&mut self, resource: &ResourceRef, now: Timestamp) -> Vec<ResourceRef> {
        let ResourceRef { namespace, name } = resource;
        let Some(members) = self.0.get_mut(namespace) else {
            return Vec::new();
        };
        if members.remove(name).is_none() {
            return Vec::new();
        }
        for of_client in members.by_client.values_mut() {
            of_client.of_former_members.retain(|(former, _)| former != name);
        }
        let is_partial = members.is_partial(now);
        let clients: Vec<_> = members.by_client.keys().cloned().collect();
        let clients = clients.into_iter().map(CountedClient::Known);
        let news_of = clients.flat_map(|client| members.news(&client, is_partial, now));
        let news_of = of_namespace(namespace, news_of);
        members.forget_unused(now);
        if members.by_name.is_empty() {
            self.0.remove(namespace);
        }
        news_of
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn of_namespace(namespace: &str, names: impl IntoIterator<Item = String>) -> Vec<ResourceRef> {
    let of_name = |name| ResourceRef {
        namespace: namespace.to_owned(),
        name,
    };
    names.into_iter().map(of_name).collect()
}

impl Members {
    /// Counts a resource by this, and returns the client that it had before.
    fn insert(&mut self, name: &str, counted: CountedResource, now: Timestamp) -> Option<CountedClient> {
        let seen = Seen {
            today: counted.count.today(None, now),
            service_issued_at: counted.count.service_issued_at(),
        };
        let previous = self.by_name.get(name);
        let reported = previous.map(|previous| previous.reported).unwrap_or_default();
        let is_same =
            previous.is_some_and(|previous| previous.seen == seen && previous.counted.is_as(&counted));
        let forecast = match &counted.client {
            CountedClient::Known(client) if is_same => {
                let of_client = self.by_client.get_mut(client);
                of_client.and_then(|of_client| of_client.forecast.take())
            }
            _ => None,
        };
        let previous = self.remove(name);
        match &counted.client {
            CountedClient::Known(client) => {
                let of_client = self.by_client.entry(client.clone()).or_default();
                of_client.names.insert(name.to_owned());
                if counted.quota.is_some() {
                    of_client.with_quota.insert(name.to_owned());
                }
                of_client.forecast = forecast;
            }
            CountedClient::Unknown => drop(self.unknown.insert(name.to_owned())),
            CountedClient::Alone => {}
        }
        if counted.is_awaited {
            self.awaited.insert(name.to_owned());
        }
        let member = Member {
            counted,
            seen,
            reported,
        };
        self.by_name.insert(name.to_owned(), member);
        previous
    }

    fn remove(&mut self, name: &str) -> Option<CountedClient> {
        let member = self.by_name.remove(name)?;
        self.awaited.remove(name);
        self.unknown.remove(name);
        if let CountedClient::Known(client) = &member.counted.client
            && let Some(of_client) = self.by_client.get_mut(client)
        {
            of_client.names.remove(name);
            of_client.with_quota.remove(name);
            of_client.forecast = None;
        }
        Some(member.counted.client)
    }

    /// The client goes on having issued what it has.
    fn keep_issued(&mut self, name: &str, client: ClientIdentity, today: IssuedToday) {
        if today.issued > 0 {
            let of_client = self.by_client.entry(client).or_default();
            of_client.of_former_members.push((name.to_owned(), today));
            of_client.forecast = None;
        }
    }

    fn forget_unused(&mut self, now: Timestamp) {
        self.by_client.retain(|_, of_client| {
            !of_client.names.is_empty()
                || of_client
                    .of_former_members
                    .iter()
                    .any(|(_, today)| today.is_of(now))
        });
    }

    /// Whether tokens may be missing in what is known of a client.
    fn is_partial(&self, now: Timestamp) -> bool {
        let has_some = |name: &String| {
            let member = self.by_name.get(name);
            member.is_some_and(|member| member.counted.count.today(None, now).issued > 0)
        };
        !self.awaited.is_empty() || self.unknown.iter().any(has_some)
    }

    /// What is expected of all that have the client of this resource.
    fn forecast(&mut self, name: &str, client: &CountedClient, now: Timestamp) -> Arc<Forecast> {
        let member = self.by_name.get_key_value(name);
        let is_shared = member.is_some_and(|(_, member)| member.counted.shared_as().is_some());
        let CountedClient::Known(client) = client else {
            return Arc::new(forecast(member.map(of_member), &[], now));
        };
        let limits = |of_client: &OfClient| !of_client.with_quota.is_empty();
        // Without a quota the sum over the client's resources is shown nowhere.
        if !is_shared && !self.by_client.get(client).is_some_and(limits) {
            return Arc::new(forecast(member.map(of_member), &[], now));
        }
        self.of_client(client, now)
    }

    fn of_client(&mut self, client: &ClientIdentity, now: Timestamp) -> Arc<Forecast> {
        let Some(of_client) = self.by_client.get_mut(client) else {
            return Arc::new(forecast([], &[], now));
        };
        let second = now.as_second();
        if let Some((of, forecast)) = &of_client.forecast
            && *of == second
        {
            return forecast.clone();
        }
        of_client.of_former_members.retain(|(_, today)| today.is_of(now));
        let members = of_client.names.iter();
        let members = members.filter_map(|name| self.by_name.get_key_value(name));
        let forecast = Arc::new(forecast(
            members.map(of_member),
            &of_client.of_former_members,
            now,
        ));
        of_client.forecast = Some((second, forecast.clone()));
        forecast
    }

    fn least_quota(&self, client: &ClientIdentity) -> Option<u64> {
        let with_quota = self.by_client.get(client)?.with_quota.iter();
        let quotas = with_quota.filter_map(|name| self.by_name.get(name)?.counted.quota);
        quotas.min()
    }

    /// Resources of a client of which something else was said last than is to be said now.
    fn news(&mut self, client: &CountedClient, is_partial: bool, now: Timestamp) -> Vec<String> {
        let CountedClient::Known(client) = client else {
            return Vec::new();
        };
        let of_client = self.by_client.get(client);
        if of_client.is_none_or(|of_client| of_client.with_quota.is_empty()) {
            return Vec::new();
        }
        let total = self.of_client(client, now);
        let is_news = |name: &&String| {
            let member = self.by_name.get(*name)?;
            let now = ReportedUsage::of(&total.total, member.counted.quota?, is_partial);
            Some(member.reported != now)
        };
        let with_quota = self.by_client.get(client).into_iter();
        let with_quota = with_quota.flat_map(|of_client| &of_client.with_quota);
        with_quota
            .filter(|name| is_news(name).unwrap_or_default())
            .cloned()
            .collect()
    }
}

fn of_member<'a>((name, member): (&'a String, &'a Member)) -> (&'a str, &'a CountedResource) {
    (name, &member.counted)
}

impl CountedResource {
    fn shared_as(&self) -> Option<TokenDigest> {
        self.service.as_ref()?.shared_as
    }

    /// Whether what is expected of it is the same as long as it counts the same.
    fn is_as(&self, other: &Self) -> bool {
        let has_same_token = |this: &ServiceToken, other: &ServiceToken| match (&this.token, &other.token) {
            (Some(this), Some(other)) => Arc::ptr_eq(this, other),
            (None, None) => true,
            _ => false,
        };
        let is_same_service = match (&self.service, &other.service) {
            (Some(this), Some(other)) => {
                has_same_token(this, other)
                    && (this.next_attempt_at, this.shared_as) == (other.next_attempt_at, other.shared_as)
            }
            (None, None) => true,
            _ => false,
        };
        self.client == other.client && self.quota == other.quota && is_same_service
    }
}

impl ReportedUsage {
    fn of(client: &ClientUsage, quota: u64, is_partial: bool) -> Self {
        Self {
            twentieths: client.issued.saturating_mul(20) / quota.max(1),
            is_forecast: client.forecast > quota,
            is_exceeded: client.issued > quota,
            is_partial,
        }
    }
}

#[cfg(test)]
mod tests;
