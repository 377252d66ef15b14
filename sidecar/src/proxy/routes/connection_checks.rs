//! Connection checks: opens a connection to each MCP server that no call has come to yet or whose last connection
//! failed, and sends nothing over it. So a wrong CA bundle is told before a user meets it, and a server that is
//! back is told before the next call.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Routes;

/// Between two looks at which servers are due.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most connections that are opened at once.
const MAX_CONCURRENT: usize = 8;

/// Checks for ever.
pub async fn run(routes: Routes) -> Infallible {
    let mut checks = JoinSet::new();
    loop {
        let now = Instant::now();
        for server in routes.table().servers.values() {
            if checks.len() >= MAX_CONCURRENT {
                break;
            }
            if let Some(usable) = server.usable()
                && usable.reachability.begin_check(now)
            {
                let (target, record) = (usable.target.clone(), Arc::clone(&usable.reachability));
                checks.spawn(async move {
                    let connection = target.connect().await;
                    record.record_check(connection.as_ref().map(drop));
                });
            }
        }
        sleep(INTERVAL).await;
        while checks.try_join_next().is_some() {}
    }
}
