//! Quotas: how many users' tokens are kept of each tenant and in total, over all resources of a process. A tenant at its
//! quota replaces its own tokens, and never another tenant's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// The quotas of all tenants. Clones share them. The default bounds nothing.
#[derive(Clone, Debug)]
pub struct UserTokenQuotas(Arc<Quotas>);

#[derive(Debug)]
struct Quotas {
    per_tenant: usize,
    total: usize,
    kept: AtomicUsize,
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
}

#[derive(Debug, Default)]
struct Tenant {
    kept: AtomicUsize,
    is_limited: AtomicBool,
}

/// What one tenant may keep.
#[derive(Clone, Debug)]
pub struct TenantQuota {
    quotas: Arc<Quotas>,
    tenant: Arc<Tenant>,
}

/// Counts as a token that is kept for as long as it is there.
#[derive(Debug)]
pub(super) struct QuotaShare(TenantQuota);

impl UserTokenQuotas {
    /// So many tokens of each tenant, and of all of them together. Beyond the total each tenant keeps its part of it.
    pub fn new(per_tenant: usize, total: usize) -> Self {
        Self(Arc::new(Quotas {
            per_tenant,
            total,
            kept: AtomicUsize::new(0),
            tenants: Mutex::default(),
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

impl TenantQuota {
    pub(super) fn put(&self) -> QuotaShare {
        self.tenant.kept.fetch_add(1, Ordering::Relaxed);
        self.quotas.kept.fetch_add(1, Ordering::Relaxed);
        QuotaShare(self.clone())
    }

    /// Whether this tenant keeps more than it may, so that one of its tokens has to go.
    pub(super) fn is_exceeded(&self) -> bool {
        let exceeded = self.tenant.kept.load(Ordering::Relaxed) > self.bound();
        if exceeded {
            self.tenant.is_limited.store(true, Ordering::Relaxed);
        }
        exceeded
    }

    /// The tenant's bound, where tokens had to go because of it and it is not far from it yet.
    pub fn limited_to(&self) -> Option<usize> {
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
        let TenantQuota { quotas, tenant } = &self.0;
        tenant.kept.fetch_sub(1, Ordering::Relaxed);
        quotas.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_beyond_its_quota_is_told_until_it_is_well_below() {
        let quotas = UserTokenQuotas::new(10, 100);
        let (red, blue) = (quotas.of_tenant("red"), quotas.of_tenant("blue"));
        let mut kept: Vec<_> = (0..10).map(|_| red.put()).collect();
        assert!(!red.is_exceeded());
        assert_eq!(red.limited_to(), None);
        kept.push(red.put());
        assert!(red.is_exceeded());
        kept.pop();
        assert_eq!(red.limited_to(), Some(10));
        assert!(!blue.is_exceeded());
        assert_eq!(blue.limited_to(), None);
        kept.truncate(8);
        assert_eq!(red.limited_to(), None);
    }

    #[test]
    fn beyond_the_total_each_tenant_keeps_its_part_and_the_small_ones_keep_theirs() {
        let quotas = UserTokenQuotas::new(90, 100);
        let (large, small) = (quotas.of_tenant("large"), quotas.of_tenant("small"));
        let of_large: Vec<_> = (0..85).map(|_| large.put()).collect();
        let of_small: Vec<_> = (0..15).map(|_| small.put()).collect();
        assert!(!large.is_exceeded() && !small.is_exceeded());
        let one_more = small.put();
        assert!(large.is_exceeded() && !small.is_exceeded());
        drop((of_large, of_small, one_more));
        assert!(!large.is_exceeded());
    }
}
