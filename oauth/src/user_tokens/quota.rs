//! Quotas: how many users' tokens are kept of each tenant and in total, over all resources of a process. A tenant at its
//! quota replaces its own tokens, and never another tenant's: those that have expired at first, then those of its resource
//! that keeps most.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Shared;

/// Shortest time between two searches for expired tokens, each of which looks at every token.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The quotas of all tenants. Clones share them. The default bounds nothing.
#[derive(Clone, Debug)]
pub struct UserTokenQuotas(Arc<Quotas>);

#[derive(Debug)]
struct Quotas {
    per_tenant: usize,
    total: usize,
    kept: AtomicUsize,
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
    swept_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Tenant {
    kept: AtomicUsize,
    is_limited: AtomicBool,
    resources: Mutex<Vec<Weak<Resource>>>,
}

#[derive(Debug)]
struct Resource {
    kept: AtomicUsize,
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

/// Counts as a token that is kept for as long as it is there.
#[derive(Debug)]
pub(super) struct QuotaShare(ResourceQuota);

impl UserTokenQuotas {
    /// So many tokens of each tenant, and of all of them together. Beyond the total each tenant keeps its part of it.
    pub fn new(per_tenant: usize, total: usize) -> Self {
        Self(Arc::new(Quotas {
            per_tenant,
            total,
            kept: AtomicUsize::new(0),
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
    pub(super) fn put(&self) -> QuotaShare {
        self.resource.kept.fetch_add(1, Ordering::Relaxed);
        self.tenant.tenant.kept.fetch_add(1, Ordering::Relaxed);
        self.tenant.quotas.kept.fetch_add(1, Ordering::Relaxed);
        QuotaShare(self.clone())
    }

    /// Has tokens go while the tenant keeps more than it may. Locks the caches of its resources, one at a time: not to be
    /// called by who has locked one.
    pub(super) fn enforce(&self) {
        let TenantQuota { quotas, tenant } = &self.tenant;
        if !self.tenant.is_exceeded() && !tenant.is_limited.load(Ordering::Relaxed) {
            return;
        }
        quotas.sweep();
        if !self.tenant.is_exceeded() {
            return;
        }
        tenant.is_limited.store(true, Ordering::Relaxed);
        let mut resources = tenant.resources();
        while self.tenant.is_exceeded() {
            resources.sort_by_key(|resource| Reverse(resource.kept.load(Ordering::Relaxed)));
            // One whose users all have a request under way gives up nothing.
            if !resources.iter().any(|resource| resource.evict()) {
                return;
            }
        }
    }

    pub(super) fn limited_to(&self) -> Option<usize> {
        self.tenant.limited_to()
    }
}

impl TenantQuota {
    /// For the resource whose tokens these are.
    pub(super) fn of_resource(self, tokens: Weak<Shared>) -> ResourceQuota {
        let resource = Arc::new(Resource {
            kept: AtomicUsize::new(0),
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

    /// Whether this tenant keeps more than it may, so that one of its tokens has to go.
    fn is_exceeded(&self) -> bool {
        self.tenant.kept.load(Ordering::Relaxed) > self.bound()
    }

    /// The tenant's bound, where tokens had to go because of it and it is not far from it yet.
    fn limited_to(&self) -> Option<usize> {
        let bound = self.bound();
        // Not at each token that ends: nine tenths are well below.
        let is_well_below = self.tenant.kept.load(Ordering::Relaxed) < bound - bound / 10;
        if is_well_below {
            self.tenant.is_limited.store(false, Ordering::Relaxed);
        }
        self.tenant.is_limited.load(Ordering::Relaxed).then_some(bound)
    }

    fn bound(&self) -> usize {
        let quotas = &self.quotas;
        if quotas.kept.load(Ordering::Relaxed) <= quotas.total {
            return quotas.per_tenant;
        }
        let tenants = quotas.tenants.lock();
        let keeping = tenants
            .values()
            .filter(|tenant| tenant.kept.load(Ordering::Relaxed) > 0);
        (quotas.total / keeping.count().max(1)).clamp(1, quotas.per_tenant.max(1))
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        let ResourceQuota { tenant, resource } = &self.0;
        let TenantQuota { quotas, tenant } = tenant;
        resource.kept.fetch_sub(1, Ordering::Relaxed);
        tenant.kept.fetch_sub(1, Ordering::Relaxed);
        quotas.kept.fetch_sub(1, Ordering::Relaxed);
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
        let mut kept: Vec<_> = (0..10).map(|_| red.put()).collect();
        assert!(!red.tenant.is_exceeded());
        assert_eq!(red.limited_to(), None);
        kept.push(red.put());
        assert!(red.tenant.is_exceeded());
        red.enforce();
        kept.pop();
        assert_eq!(red.limited_to(), Some(10));
        assert!(!blue.tenant.is_exceeded());
        assert_eq!(blue.limited_to(), None);
        kept.truncate(8);
        assert_eq!(red.limited_to(), None);
    }

    #[test]
    fn beyond_the_total_each_tenant_keeps_its_part_and_the_small_ones_keep_theirs() {
        let quotas = UserTokenQuotas::new(90, 100);
        let (large, small) = (of_tenant(&quotas, "large"), of_tenant(&quotas, "small"));
        let of_large: Vec<_> = (0..85).map(|_| large.put()).collect();
        let of_small: Vec<_> = (0..15).map(|_| small.put()).collect();
        assert!(!large.tenant.is_exceeded() && !small.tenant.is_exceeded());
        let one_more = small.put();
        assert!(large.tenant.is_exceeded() && !small.tenant.is_exceeded());
        drop((of_large, of_small, one_more));
        assert!(!large.tenant.is_exceeded());
    }
}
