//! Exchange limits: how many requests for users' tokens a replica answers at once, be it the leader or one that passes them on to it.

use crate::shares::ShareLimits;

/// Requests of one namespace that are answered at once, and of all: each may hold
/// [`MAX_EXCHANGE_REQUEST_BYTES`](mcp_auth_protocol::bounds::MAX_EXCHANGE_REQUEST_BYTES).
pub const EXCHANGES: ShareLimits = ShareLimits {
    total: 2_048,
    of_one: 512,
};
/// Of one pod, which are as many as a sidecar has on its connection. Of all together the namespaces have the bound.
pub const EXCHANGES_OF_PODS: ShareLimits = ShareLimits {
    total: 1_000_000,
    of_one: 256,
};
