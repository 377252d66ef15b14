//! Forecast: what the resources of one client have taken today, and will have by midnight.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use mcp_auth_oauth::{IssuedToday, TokenDigest};

use super::{CountedResource, ServiceToken};
use crate::store::ClientUsage;

/// Of all resources that have one client.
pub struct Forecast {
    pub of: BTreeMap<String, IssuedToday>,
    pub total: ClientUsage,
}

impl Forecast {
    /// Whether the client is not that of one resource alone.
    pub fn is_of_more_than_one(&self) -> bool {
        self.total.resources > 1 || self.total.issued_to_former > 0
    }
}

/// `of_former_members` is what the client was issued today for resources that have another one by now.
pub fn forecast<'a>(
    members: impl IntoIterator<Item = (&'a str, &'a CountedResource)>,
    of_former_members: &[(String, IssuedToday)],
    now: Timestamp,
) -> Forecast {
    let members: Vec<_> = members.into_iter().collect();
    let mut shared: HashMap<TokenDigest, Vec<(&str, &CountedResource, &ServiceToken)>> = HashMap::new();
    for (name, counted) in &members {
        if let Some(service) = &counted.service
            && let Some(digest) = service.shared_as
        {
            shared.entry(digest).or_default().push((name, counted, service));
        }
    }
    let renewals: HashMap<_, _> = shared.values().filter_map(|sharing| renewal(sharing)).collect();
    let today: Vec<_> = members
        .iter()
        .map(|(name, counted)| {
            let next_attempt_at = match &counted.service {
                Some(service) if service.shared_as.is_some() => renewals.get(name).copied(),
                Some(service) => Some(service.next_attempt_at),
                None => None,
            };
            (*name, counted.count.today(next_attempt_at, now))
        })
        .collect();
    let issued_to_former = of_former_members
        .iter()
        .map(|(_, today)| today.issued)
        .fold(0, u64::saturating_add);
    let total = total(&today, issued_to_former);
    let of = today
        .into_iter()
        .map(|(name, today)| (name.to_owned(), today))
        .collect();
    Forecast { of, total }
}

fn total(today: &[(&str, IssuedToday)], issued_to_former: u64) -> ClientUsage {
    let mut largest: Vec<_> = today
        .iter()
        .map(|(name, today)| (*name, today.forecast))
        .collect();
    largest.sort_unstable_by(|(left, fewer), (right, more)| more.cmp(fewer).then_with(|| left.cmp(right)));
    largest.truncate(ClientUsage::MAX_NAMED);
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(issued_to_former, u64::saturating_add);
    ClientUsage {
        issued: sum(&mut today.iter().map(|(_, today)| today.issued)),
        forecast: sum(&mut today.iter().map(|(_, today)| today.forecast)),
        resources: today.len(),
        largest: largest
            .into_iter()
            .map(|(name, forecast)| (name.to_owned(), forecast))
            .collect(),
        issued_to_former,
    }
}

/// Of resources that share a token: which of them is expected to request the next one, and when. That is the one that requested
/// the last one, as soon as any resource with that token wants another; a resource with an older token takes the newest instead.
fn renewal<'a>(sharing: &[(&'a str, &CountedResource, &ServiceToken)]) -> Option<(&'a str, Timestamp)> {
    let requested = sharing.iter().filter_map(|(name, counted, service)| {
        let issued_at = counted.count.service_issued_at()?;
        Some((issued_at, *name, service))
    });
    // Of several that another process requested a token for, it is known of none: the first is as good as any.
    let (_, name, last) = requested
        .max_by(|(earlier, left, _), (later, right, _)| earlier.cmp(later).then_with(|| right.cmp(left)))?;
    let newest = secret(last);
    let having_newest = sharing.iter().filter(|(_, _, service)| secret(service) == newest);
    let next = having_newest
        .map(|(_, _, service)| service.next_attempt_at)
        .min()?;
    Some((name, next))
}

fn secret(service: &ServiceToken) -> Option<&str> {
    service
        .token
        .as_ref()
        .map(|token| token.access_token.secret().as_str())
}
