//! What the API server counted.

use std::collections::BTreeMap;

use kube::Client;

/// Requests since it started.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// That changed an object, by what they did to which, leases aside: those are renewed every few seconds, whatever
    /// there is.
    pub writes: BTreeMap<String, usize>,
    pub token_reviews: usize,
}

impl Requests {
    pub async fn count(client: &Client) -> Self {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = client.request_text(request).await.unwrap();
        let mut requests = Self::default();
        for line in text.lines() {
            let Some((labels, count)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|line| line.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let value = labels.split(&format!("{name}=\"")).nth(1)?;
                value.split('"').next()
            };
            // Written as 1.2345e+06 from some size on.
            let count = count.trim().parse::<f64>().unwrap();
            let count = count.round() as usize;
            let is_write = matches!(label("verb"), Some("POST" | "PUT" | "PATCH" | "APPLY" | "DELETE"));
            match label("resource") {
                Some("tokenreviews") => requests.token_reviews += count,
                Some(resource @ ("mcpserverauths" | "events" | "secrets" | "configmaps" | "pods"))
                    if is_write =>
                {
                    let verb = label("verb").unwrap_or_default();
                    let part = label("subresource").unwrap_or_default();
                    let what = format!("{verb} {resource}/{part}");
                    *requests
                        .writes
                        .entry(what.trim_end_matches('/').to_owned())
                        .or_default() += count;
                }
                _ => {}
            }
        }
        requests
    }

    pub fn since(mut self, before: &Self) -> Self {
        for (what, count) in &mut self.writes {
            *count -= before.writes.get(what).copied().unwrap_or_default();
        }
        self.writes.retain(|_, count| *count > 0);
        self.token_reviews -= before.token_reviews;
        self
    }

    pub fn all_writes(&self) -> usize {
        self.writes.values().sum()
    }
}
