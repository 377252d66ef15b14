//! Quotas: how many users' tokens, and bytes of them, are kept of each tenant and in total, over all resources of a process. A
//! tenant at its quota replaces its own tokens, and never another tenant's: those that have expired at first, then those of its resource
//! that keeps most.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{MAX_BYTES, Shared};

/// Shortest time between two searches for expired tokens, each of which looks at every token.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of tokens of a tenant: as many as of one MCP server.
const MAX_BYTES_OF_TENANT: usize = MAX_BYTES;
/// Bytes of tokens of all tenants.
const MAX_BYTES_IN_TOTAL: usize = 4 * MAX_BYTES_OF_TENANT;

/// Why not all tokens of a tenant are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UserTokenLimit {
    /// So many may be.
    Tokens(usize),
    /// They may have so many bytes.
    Bytes(usize),
}

/// The quotas of all tenants. Clones share them. The default bounds nothing.
#[derive(Clone, Debug)]
pub struct UserTokenQuotas(Arc<Quotas>);

#[derive(Debug)]
struct Quotas {
    per_tenant: usize,
    total: usize,
    bytes_per_tenant: usize,
    bytes_in_total: usize,
    kept: Kept,
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
    swept_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Kept {
    tokens: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Tenant {
    kept: Kept,
    limited_by: Mutex<Option<LimitKind>>,
    resources: Mutex<Vec<Weak<Resource>>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LimitKind {
    Tokens,
    Bytes,
}

#[derive(Debug)]
struct Resource {
    kept: Kept,
    tokens: Weak<Shared>,
}

/// What one tenant may keep.
#[derive(Clone, Debug)]
pub struct TenantQuota {
    quotas: Arc<Quotas>,
    tenant: Arc<Tenant>,
}

/// What one resource of a tenant keeps of it.
#[derive(Clone, Debug)]
pub(super) struct ResourceQuota {
    tenant: TenantQuota,
    resource: Arc<Resource>,
}

/// Counts as a token of so many bytes that is kept for as long as it is there.
#[derive(Debug)]
pub(super) struct QuotaShare {
    quota: ResourceQuota,
    bytes: usize,
}

impl Kept {
    fn add(&self, bytes: usize) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.tokens.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn get(&self, kind: LimitKind) -> usize {
        let count = match kind {
            LimitKind::Tokens => &self.tokens,
            LimitKind::Bytes => &self.bytes,
        };
        count.load(Ordering::Relaxed)
    }
}

impl LimitKind {
    const ALL: [Self; 2] = [Self::Tokens, Self::Bytes];
}

impl UserTokenQuotas {
    /// So many tokens of each tenant, and of all of them together, in 32 MiB of each tenant and 128 MiB of all. Beyond a total each
    /// tenant keeps its part of it.
    pub fn new(per_tenant: usize, total: usize) -> Self {
        Self(Arc::new(Quotas {
            per_tenant,
            total,
            bytes_per_tenant: MAX_BYTES_OF_TENANT,
            bytes_in_total: MAX_BYTES_IN_TOTAL,
            kept: Kept::default(),
            tenants: Mutex::default(),
            swept_at: Mutex::default(),
        }))
    }

    pub fn of_tenant(&self, tenant: &str) -> TenantQuota {
        let mut tenants = self.0.tenants.lock();
        // One that keeps nothing and that nobody asks for is forgotten.
        tenants.retain(|_, tenant| Arc::strong_count(tenant) > 1);
        let tenant = tenants.entry(tenant.to_owned()).or_default();
        TenantQuota {
            quotas: Arc::clone(&self.0),
            tenant: Arc::clone(tenant),
        }
    }
}

impl Default for UserTokenQuotas {
    fn default() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }
}

impl Quotas {
    /// Drops the tokens that have expired, of all tenants: they count in the total.
    fn sweep(&self) {
        let now = Instant::now();
        let mut swept_at = self.swept_at.lock();
        if swept_at.is_some_and(|swept_at| now < swept_at + SWEEP_INTERVAL) {
            return;
        }
        *swept_at = Some(now);
        drop(swept_at);
        let tenants: Vec<_> = self.tenants.lock().values().cloned().collect();
        for resource in tenants.iter().flat_map(|tenant| tenant.resources()) {
            if let Some(tokens) = resource.tokens.upgrade() {
                tokens.cache.lock().drop_expired();
            }
        }
    }
}

impl Tenant {
    fn resources(&self) -> Vec<Arc<Resource>> {
        self.resources.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Resource {
    fn evict(&self) -> bool {
        let tokens = self.tokens.upgrade();
        tokens.is_some_and(|tokens| tokens.cache.lock().evict())
    }
}

impl ResourceQuota {
    pub(super) fn put(&self, bytes: usize) -> QuotaShare {
        for kept in self.counts() {
            kept.add(bytes);
        }
        QuotaShare {
            quota: self.clone(),
            bytes,
        }
    }

    fn counts(&self) -> [&Kept; 3] {
        let TenantQuota { quotas, tenant } = &self.tenant;
        [&self.resource.kept, &tenant.kept, &quotas.kept]
    }

    /// Has tokens go while the tenant keeps more than it may. Locks the caches of its resources, one at a time: not to be
    /// called by who has locked one.
    pub(super) fn enforce(&self) {
        let TenantQuota { quotas, tenant } = &self.tenant;
        if self.tenant.exceeded().is_none() && tenant.limited_by.lock().is_none() {
            return;
        }
        quotas.sweep();
        let Some(exceeded) = self.tenant.exceeded() else {
            return;
        };
        *tenant.limited_by.lock() = Some(exceeded);
        let mut resources = tenant.resources();
        while let Some(exceeded) = self.tenant.exceeded() {
            resources.sort_by_key(|resource| Reverse(resource.kept.get(exceeded)));
            // One whose users all have a request under way gives up nothing.
            if !resources.iter().any(|resource| resource.evict()) {
                return;
            }
        }
    }

    pub(super) fn limited_to(&self) -> Option<UserTokenLimit> {
        self.tenant.limited_to()
    }
}

impl TenantQuota {
    /// For the resource whose tokens these are.
    pub(super) fn of_resource(self, tokens: Weak<Shared>) -> ResourceQuota {
        let resource = Arc::new(Resource {
            kept: Kept::default(),
            tokens,
        });
        let mut resources = self.tenant.resources.lock();
        resources.retain(|resource| resource.strong_count() > 0);
        resources.push(Arc::downgrade(&resource));
        drop(resources);
        ResourceQuota {
            tenant: self,
            resource,
        }
    }

    /// Of what this tenant keeps more than it may, so that one of its tokens has to go.
    fn exceeded(&self) -> Option<LimitKind> {
        let is_exceeded = |kind: &LimitKind| self.tenant.kept.get(*kind) > self.bound(*kind);
        LimitKind::ALL.into_iter().find(is_exceeded)
    }

    /// The tenant's bound, where tokens had to go because of it and it is not far from it yet.
    fn limited_to(&self) -> Option<UserTokenLimit> {
        let mut limited_by = self.tenant.limited_by.lock();
        let kind = (*limited_by)?;
        let bound = self.bound(kind);
        // Not at each token that ends: nine tenths are well below.
        if self.tenant.kept.get(kind) < bound - bound / 10 {
            *limited_by = None;
            return None;
        }
        Some(match kind {
            LimitKind::Tokens => UserTokenLimit::Tokens(bound),
            LimitKind::Bytes => UserTokenLimit::Bytes(bound),
        })
    }

    fn bound(&self, kind: LimitKind) -> usize {
        let quotas = &self.quotas;
        let (per_tenant, total) = match kind {
            LimitKind::Tokens => (quotas.per_tenant, quotas.total),
            LimitKind::Bytes => (quotas.bytes_per_tenant, quotas.bytes_in_total),
        };
        if quotas.kept.get(kind) <= total {
            return per_tenant;
        }
        let tenants = quotas.tenants.lock();
        let keeping = tenants.values().filter(|tenant| tenant.kept.get(kind) > 0);
        (total / keeping.count().max(1)).clamp(1, per_tenant.max(1))
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        for kept in self.quota.counts() {
            kept.remove(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_tenant(quotas: &UserTokenQuotas, tenant: &str) -> ResourceQuota {
        quotas.of_tenant(tenant).of_resource(Weak::new())
    }

    #[test]
    fn a_tenant_beyond_its_quota_is_told_until_it_is_well_below() {
        let quotas = UserTokenQuotas::new(10, 100);
        let (red, blue) = (of_tenant(&quotas, "red"), of_tenant(&quotas, "blue"));
        let mut kept: Vec<_> = (0..10).map(|_| red.put(1)).collect();
        assert!(red.tenant.exceeded().is_none());
        assert_eq!(red.limited_to(), None);
        kept.push(red.put(1));
        assert_eq!(red.tenant.exceeded(), Some(LimitKind::Tokens));
        red.enforce();
        kept.pop();
        assert_eq!(red.limited_to(), Some(UserTokenLimit::Tokens(10)));
        assert!(blue.tenant.exceeded().is_none());
        assert_eq!(blue.limited_to(), None);
        kept.truncate(8);
        assert_eq!(red.limited_to(), None);
    }

    #[test]
    fn beyond_the_total_each_tenant_keeps_its_part_and_the_small_ones_keep_theirs() {
        let quotas = UserTokenQuotas::new(90, 100);
        let (large, small) = (of_tenant(&quotas, "large"), of_tenant(&quotas, "small"));
        let of_large: Vec<_> = (0..85).map(|_| large.put(1)).collect();
        let of_small: Vec<_> = (0..15).map(|_| small.put(1)).collect();
        assert!(large.tenant.exceeded().is_none() && small.tenant.exceeded().is_none());
        let one_more = small.put(1);
        assert!(large.tenant.exceeded().is_some() && small.tenant.exceeded().is_none());
        drop((of_large, of_small, one_more));
        assert!(large.tenant.exceeded().is_none());
    }

    #[test]
    fn a_few_long_tokens_are_too_many_as_well_and_beyond_the_total_of_bytes_each_tenant_keeps_its_part() {
        let quotas = UserTokenQuotas::new(10_000, 50_000);
        let tenants: Vec<_> = (0..5)
            .map(|number| of_tenant(&quotas, &number.to_string()))
            .collect();
        let mut kept: Vec<_> = tenants[..3]
            .iter()
            .map(|tenant| tenant.put(MAX_BYTES_OF_TENANT))
            .collect();
        assert!(tenants[0].tenant.exceeded().is_none());
        kept.push(tenants[0].put(1));
        assert_eq!(tenants[0].tenant.exceeded(), Some(LimitKind::Bytes));
        tenants[0].enforce();
        kept.pop();
        let bound = UserTokenLimit::Bytes(MAX_BYTES_OF_TENANT);
        assert_eq!(tenants[0].limited_to(), Some(bound));
        assert_eq!(tenants[1].limited_to(), None);

        // Five together have more than all may have.
        kept.push(tenants[3].put(MAX_BYTES_OF_TENANT));
        let small = tenants[4].put(1024);
        for tenant in &tenants[..4] {
            assert_eq!(tenant.tenant.exceeded(), Some(LimitKind::Bytes));
        }
        assert!(
            tenants[4].tenant.exceeded().is_none(),
            "the small one keeps its own"
        );
        drop((kept, small));
        assert_eq!(quotas.0.kept.get(LimitKind::Bytes), 0);
        assert_eq!(tenants[0].limited_to(), None);
    }
}
