//! Host names to addresses, by the system's resolver. Ours, so that a name that does not resolve can be told from
//! other failures by type, and so that addresses can be judged before anything is sent to them.

use std::io;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemResolver;

/// The name does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("the host name does not resolve")]
pub(crate) struct Unresolved(#[source] Option<io::Error>);

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The port is the caller's to fill in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let addresses: Vec<_> = found.map_err(|error| Unresolved(Some(error)))?.collect();
            if addresses.is_empty() {
                return Err(Unresolved(None).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
